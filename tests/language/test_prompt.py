"""The tokenizer rules, on the four kinds there are: our own, Qwen's, Llama's, and the real SmolLM2's."""

import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.files import cache_folder
from emrrg_lib.language.llm import load_llm, prepare_tokenizer
from emrrg_lib.language.prompt import IGNORE, image_slot, prompt_ids, report_ids, text_batch, text_ids

PROMPT = "Write a report."
BYTES = [f"<0x{i:02X}>" for i in range(256)]
RAW = (
    "1. The heart is normal (size); lungs are clear!\nNo effusion.. 2. XXXX at L1. There is  a nodule.",
    'Heart size 1.5 cm -- stable? "No" pneumothorax [comparison].',
    "Café-au-lait ü µ.",
)


def pieces(texts, pre_tokenizer, **options):
    """The vocabulary and merges that BPE learns on the texts."""
    learner = Tokenizer(models.BPE(**options))
    learner.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        show_progress=False,
        initial_alphabet=([] if options else pre_tokenizers.ByteLevel.alphabet()),
    )
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(m) for m in model["merges"]]


def qwen(texts):
    """Byte-level, no BOS, pad = end symbol, which stands behind the vocabulary; id 0 is "!"."""
    vocab, merges = pieces(texts, pre_tokenizers.ByteLevel(add_prefix_space=False))
    assert vocab[0] == "!"
    return transformers.Qwen2Tokenizer(vocab={t: i for i, t in enumerate(vocab)}, merges=merges)


def llama(texts):
    """SentencePiece's kind: <s> in front, no pad, a space before the first word, bytes for the unknown."""
    vocab, merges = pieces(texts, pre_tokenizers.Metaspace(), unk_token="<unk>")
    vocab = ["<unk>", "<s>", "</s>", *BYTES, "▁", *(t for t in vocab if t != "▁")]
    return transformers.LlamaTokenizer(vocab={t: i for i, t in enumerate(vocab)}, merges=merges)


def smollm2(_):
    if not (cache_folder("smollm2-135m") / "config.json").is_file():
        pytest.skip("SmolLM2 has not been unpacked on this machine: emrrg_lib.language.llm.load_llm does it")
    return transformers.AutoTokenizer.from_pretrained(cache_folder("smollm2-135m"))


@pytest.fixture(scope="module", params=["tiny", "qwen", "llama", "smollm2"])
def kind(request, sentences):
    name = request.param
    make = {"qwen": qwen, "llama": llama, "smollm2": smollm2}
    return name, load_llm("tiny")[1] if name == "tiny" else prepare_tokenizer(make[name](sentences))


@pytest.fixture
def tok(kind):
    return kind[1]


@pytest.fixture
def reports(sentences):
    return [clean_report(raw, rule) for raw in RAW for rule in ("iu_xray", "mimic_cxr")] + list(sentences)


def test_bos_pad_and_end_symbol(kind):
    name, tok = kind
    bos, pad, end = {
        "tiny": (None, "<|pad|>", "<|endoftext|>"),
        "qwen": (None, "<|endoftext|>", "<|endoftext|>"),
        "llama": ("<s>", "</s>", "</s>"),
        "smollm2": ("<|im_start|>", "<|im_end|>", "<|im_end|>"),
    }[name]
    assert (tok.bos_token, tok.pad_token, tok.eos_token, tok.padding_side) == (bos, pad, end, "left")
    ids = prompt_ids(tok, PROMPT)
    assert (ids[0] == tok.bos_token_id) == (ids.count(tok.bos_token_id) == 1) == (bos is not None)
    assert tok.decode(ids[bos is not None :]) == f"Human: {PROMPT}\nAssistant:"


def test_a_report_comes_back_from_its_tokens(tok, reports):
    for report in reports:
        ids = report_ids(tok, report, 500)
        assert ids[-1] == tok.eos_token_id
        assert tok.decode(ids, skip_special_tokens=True).strip() == report.strip()


def test_the_report_is_tokenised_as_it_stands_after_the_prompt(tok, reports):
    for report in reports:
        whole = text_ids(tok, f"Human: {PROMPT}\nAssistant: {report.strip()}")
        head = text_ids(tok, f"Human: {PROMPT}\nAssistant:")
        assert head + report_ids(tok, report, 500)[:-1] == whole


def test_no_text_is_read_as_a_special_symbol(tok, sentences):
    marks = [t for t in (tok.bos_token, tok.eos_token, tok.pad_token) if t]
    ids = report_ids(tok, " ".join(marks) + sentences[0], 500)
    assert not {*tok.convert_tokens_to_ids(marks)} & {*ids[:-1]}
    assert tok.decode(ids[:-1]).strip() == " ".join(marks) + sentences[0]


def test_the_end_symbol_is_learnt_though_it_may_be_the_pad(tok, sentences):
    batch = text_batch(tok, PROMPT, [sentences[0], sentences[1] * 3, sentences[2]], 12)
    head = len(prompt_ids(tok, PROMPT))
    for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
        length = int(mask.sum())
        assert mask[:length].all() and ids[length - 1] == tok.eos_token_id == labels[length - 1]
        assert ids[length:].eq(tok.pad_token_id).all() and labels[length:].eq(IGNORE).all()
        assert labels[:head].eq(IGNORE).all() and torch.equal(labels[head:length], ids[head:length])
        assert tok.eos_token_id not in ids[head : length - 1] and length - head <= 13


def test_a_long_report_is_cut_before_its_end_symbol(tok, sentences):
    whole, cut = report_ids(tok, sentences[0], 500), report_ids(tok, sentences[0], 5)
    assert cut == [*whole[:5], tok.eos_token_id]
    assert report_ids(tok, sentences[0], len(whole) - 1) == whole
    assert report_ids(tok, "", 5)[-1] == tok.eos_token_id


def test_the_place_of_the_image(tok):
    ids, slot = prompt_ids(tok, PROMPT, image=True), image_slot(tok)
    skip = tok.bos_token_id is not None
    assert tok.decode(ids[skip:slot]) == "Human: <Img>"
    assert tok.decode(ids[slot:]).strip() == f"</Img> {PROMPT} \nAssistant:"


def test_a_pad_that_is_a_word_is_replaced(sentences):
    """Upstream pads Qwen with id 0, which is "!" (NOTES E25)."""
    tok = qwen(sentences)
    tok.pad_token = "!"
    assert tok.pad_token_id == 0 in text_ids(tok, "a!")
    assert prepare_tokenizer(tok).pad_token == "<|endoftext|>"
    tok = llama(sentences)
    tok.add_special_tokens({"pad_token": "[PAD]"})
    assert prepare_tokenizer(tok).pad_token == "[PAD]"  # a pad of its own stays


def test_a_tokenizer_that_cleans_up_is_stopped(sentences):
    tok = llama(sentences)
    tok.clean_up_tokenization_spaces = True
    tok.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    assert prepare_tokenizer(tok).decode(report_ids(tok, sentences[0], 99)[:-1]) == sentences[0]
