"""EMRRG as a whole: visual states, masks, the loss, what trains, and run folders."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from emrrg_lib.config import LLMConfig, PartialLoRAConfig
from emrrg_lib.files import InputError
from emrrg_lib.language.hybrid_decoder import gates_scaled
from emrrg_lib.language.llm import load_llm, prepare_tokenizer
from emrrg_lib.language.prompt import IGNORE, prompt_ids, report_ids, text_batch
from emrrg_lib.model import EMRRG
from emrrg_lib.run_folder import write_config, write_trained
from emrrg_lib.vision.weights import save_vision_encoder

REPORTS = ["the heart is enlarged .", "no pleural effusion or pneumothorax is seen .", "clear ."]
TOKENS = 17  # of one view: 16 patches and the cls token


def with_data(config, **changes):
    return replace(config, data=replace(config.data, **changes))


@pytest.fixture
def batch(tokenizer, small_config, images):
    """Three studies; the last has its first view only."""
    text = text_batch(tokenizer, small_config.data.prompt, REPORTS, small_config.data.max_length)
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    return {
        "pixel_values": images(3),
        "view_mask": mask,
        "input_ids": text.input_ids,
        "attention_mask": text.attention_mask,
        "labels": text.labels,
    }


# -------------------------------------------------------------------------------- visual states


def test_concat_puts_every_view_in_its_own_slot(make_model, images):
    model, pixels = make_model(), images(2)
    states, mask = model.encode(pixels, torch.ones(2, 2, dtype=torch.bool))
    assert states.shape == (2, 2 * TOKENS, 32) and mask.shape == (2, 2 * TOKENS) and mask.all()
    for study in range(2):
        for view in range(2):
            tokens = model.encoder(pixels[study, view][None])[0]
            wanted = model.projector_norm(model.projector(tokens)) + model.view_embedding.weight[view]
            slot = states[study, view * TOKENS : (view + 1) * TOKENS]
            assert torch.allclose(slot, wanted, atol=1e-5)


@pytest.mark.parametrize("absent", [0, 1])
def test_an_absent_view_keeps_its_slot_but_is_masked(make_model, images, absent):
    model, pixels = make_model(), images(2)
    view_mask = torch.ones(2, 2, dtype=torch.bool)
    view_mask[1, absent] = False
    states, mask = model.encode(pixels, view_mask)
    whole, _ = model.encode(pixels, torch.ones(2, 2, dtype=torch.bool))
    there = mask[1].view(2, TOKENS)
    assert not there[absent].any() and there[1 - absent].all() and mask[0].all()
    assert torch.allclose(states[mask], whole[mask], atol=1e-5)


def test_one_view_given_alone_is_the_first_of_two(make_model, images):
    model, pixels = make_model(), images(2)
    alone, mask = model.encode(pixels[:, :1], torch.ones(2, 1, dtype=torch.bool))
    both, _ = model.encode(pixels, torch.ones(2, 2, dtype=torch.bool))
    assert alone.shape == (2, TOKENS, 32) and mask.all()
    assert torch.allclose(alone, both[:, :TOKENS], atol=1e-5)


def test_mean_averages_the_tokens_of_the_views_that_exist(make_model, small_config, images):
    model, pixels = make_model(with_data(small_config, views="mean")), images(2)
    view_mask = torch.tensor([[True, True], [False, True]])
    states, mask = model.encode(pixels, view_mask)
    assert states.shape == (2, TOKENS, 32) and mask.shape == (2, TOKENS) and mask.all()
    tokens = model.encoder(pixels.flatten(0, 1)).unflatten(0, (2, 2))
    wanted = model.projector_norm(model.projector(torch.stack([tokens[0].mean(0), tokens[1, 1]])))
    assert torch.allclose(states, wanted, atol=1e-5)
    swapped, _ = model.encode(pixels.flip(1), view_mask.flip(1))
    assert torch.allclose(swapped, states, atol=1e-5)
    concat = make_model()
    assert not torch.allclose(
        concat.encode(pixels.flip(1), view_mask.flip(1))[0][0],
        concat.encode(pixels, view_mask)[0][0],
        atol=1e-2,
    )


@pytest.mark.parametrize("views", ["concat", "mean"])
def test_a_masked_view_influences_nothing(make_model, small_config, batch, views):
    model = make_model(with_data(small_config, views=views))
    loss = model(**batch)["loss"]
    texts = model.generate(batch["pixel_values"], batch["view_mask"])
    batch["pixel_values"][2, 1] = float("nan")
    assert torch.equal(model(**batch)["loss"], loss)
    assert model.generate(batch["pixel_values"], batch["view_mask"]) == texts
    batch["pixel_values"][2, 0] += 1
    assert not torch.equal(model(**batch)["loss"], loss)


def test_encoder_tokens_computed_before_give_the_same_loss(make_model, batch):
    model = make_model()
    tokens = model.encoder(batch["pixel_values"][batch["view_mask"]])
    without = {k: v for k, v in batch.items() if k != "pixel_values"}
    assert torch.equal(model(**without, tokens=tokens)["loss"], model(**batch)["loss"])


def test_views_that_cannot_be_are_refused(make_model, images):
    model = make_model()
    with pytest.raises(InputError, match="a study has 3 views, but the model knows 2"):
        model.encode(images(1, views=3), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="a study has no view"):
        model.encode(images(2), torch.tensor([[True, True], [False, False]]))


# ----------------------------------------------------------------------------------------- loss


def hf_loss(model, batch):
    """The LLM's own loss (transformers), over the same inputs."""
    states, mask = model.encode(batch["pixel_values"], batch["view_mask"])
    text = {k: batch[k] for k in ("input_ids", "attention_mask", "labels")}
    return model.llm(
        **text,
        visual_states=states,
        visual_mask=mask,
        use_cache=False,
        text_mask=text["attention_mask"].bool(),
    )


def test_the_loss_is_the_mean_over_all_report_tokens(make_model, batch):
    model = make_model()
    loss, theirs = model(**batch)["loss"], hf_loss(model, batch)
    assert torch.allclose(loss, theirs.loss, atol=1e-5)
    logits = theirs.logits.double().detach().numpy()
    logp = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    labels = batch["labels"].numpy()
    terms = [-logp[i, t - 1, labels[i, t]] for i, t in np.argwhere(labels != IGNORE)]
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)
    assert len(terms) == sum(len(report_ids(model.tokenizer, r, 12)) for r in REPORTS)


def test_padding_on_the_right_does_not_count(make_model, batch):
    model = make_model()
    total = sum(
        model(**{k: v[i : i + 1] for k, v in batch.items()}, num_items_in_batch=1)["loss"].item()
        for i in range(3)
    )
    count = int((batch["labels"] != IGNORE).sum())
    assert model(**batch)["loss"].item() * count == pytest.approx(total, rel=1e-4)
    garbage = batch["input_ids"].clone()
    garbage[batch["attention_mask"] == 0] = 7
    assert torch.allclose(model(**batch | {"input_ids": garbage})["loss"], model(**batch)["loss"], atol=1e-6)


def test_a_label_on_the_first_token_is_left_out_as_transformers_does(make_model, batch):
    model = make_model()
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
    assert torch.allclose(model(**batch)["loss"], hf_loss(model, batch).loss, atol=1e-5)


def test_the_trainer_divides_by_the_tokens_of_the_whole_step(make_model, batch, tmp_path):
    """Accumulated over three batches of one, the loss is divided by the tokens of all three."""
    from transformers import Trainer, TrainingArguments

    class Rows(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return index

    model, seen = make_model(), []
    model.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(int(kwargs["num_items_in_batch"])), with_kwargs=True
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=3,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(),
        data_collator=lambda rows: {k: v[rows] for k, v in batch.items()},
    ).train()
    assert seen == [int((batch["labels"] != IGNORE).sum())] * 3


# ------------------------------------------------------------------------------------ what trains


def trainable_names():
    names = [
        "projector.weight",
        "projector.bias",
        "projector_norm.weight",
        "projector_norm.bias",
        "view_embedding.weight",
    ]
    for i in range(2):
        lora = f"encoder.base_model.model.layers.{i}.mixer.in_proj.lora_"
        names += [f"{lora}{m}.lora_{t}.weight" for m in "AB" for t in ("X", "in_proj")]
        cross = f"llm.model.layers.{i}.self_attn.cross_attention."
        names += [
            cross + part
            for part in (
                "k_proj.weight",
                "k_proj.bias",
                "v_proj.weight",
                "v_proj.bias",
                "gate_proj.weight",
                "gate_proj.bias",
                "warm_up",
            )
        ]
    return names


def test_exactly_the_named_parameters_get_a_gradient(make_model, batch):
    model = make_model().train()
    model(**batch)["loss"].backward()
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names == set(trainable_names())
    for name, parameter in model.named_parameters():
        if name in names:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    assert set(model.trained_state()) == names


def test_a_fresh_model_writes_as_its_llm_alone_and_only_alpha_moves_first(make_model, batch):
    model = make_model(awake=False).train()
    text = {k: batch[k] for k in ("input_ids", "attention_mask", "labels")}
    assert torch.allclose(model(**batch)["loss"], model.llm(**text).loss, atol=1e-6)
    model(**batch)["loss"].backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {n for n in trainable_names() if n.endswith("warm_up")}


def test_training_mode_changes_nothing_in_what_is_frozen(
    make_model, make_encoder, make_llm, tokenizer, small_config, batch
):
    """The LLM's dropouts are 0 (checkpointing needs its train mode); a frozen encoder stays in eval."""
    llm = make_llm()
    llm.config.attention_dropout = 0.5
    for layer in llm.model.layers:
        layer.self_attn.attention_dropout = 0.5
    config = replace(small_config, encoder_tuning="frozen")
    model = EMRRG(config, make_encoder(drop_path=0.9), llm, tokenizer).train()
    assert model.llm.training and not any(m.training for m in model.encoder.modules())
    assert torch.equal(model(**batch)["loss"], model.eval()(**batch)["loss"])
    lora = make_model(replace(small_config, partial_lora=PartialLoRAConfig(r=2, dropout=0.5))).train()
    assert lora.encoder.base_model.model.layers[0].mixer.in_proj.lora_dropout["lora_X"].training


def test_a_few_steps_learn_to_tell_two_images_apart(make_model, tokenizer, small_config, images):
    """The report can only come through the gates: the text before it is the same for both."""
    model, pixels = make_model(awake=False).train(), images(2)
    text = text_batch(tokenizer, small_config.data.prompt, ["clear .", "enlarged ."], 12)
    given = {
        "pixel_values": pixels,
        "view_mask": torch.ones(2, 2, dtype=torch.bool),
        "input_ids": text.input_ids,
        "attention_mask": text.attention_mask,
        "labels": text.labels,
    }
    model.llm.get_input_embeddings().weight.data.mul_(20)  # tied: the random LM can be sure of a word
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    before = model(**given)["loss"].item()
    for _ in range(160):
        optimizer.zero_grad()
        model(**given)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        after = float(model.eval()(**given)["loss"])
        swapped = float(model(**given | {"pixel_values": pixels.flip(0)})["loss"])
        with gates_scaled(model.llm, {0: 0.0, 1: 0.0}):
            closed = float(model(**given)["loss"])
    assert after < 0.2 * before and after < 0.8 * swapped
    assert closed == pytest.approx(before, rel=1e-4)


# ------------------------------------------------------------------------------- prompt and tokens


def test_training_text_is_prompt_report_end_symbol(tokenizer, small_config):
    text = text_batch(tokenizer, "P", ["clear .", "no effusion"], 12)
    head = prompt_ids(tokenizer, "P")
    assert tokenizer.decode(head) == "Human: P\nAssistant:"
    for i, report in enumerate(("clear .", "no effusion")):
        length = int(text.attention_mask[i].sum())
        ids = text.input_ids[i]
        assert tokenizer.decode(ids[:length]) == f"Human: P\nAssistant: {report}<|endoftext|>"
        assert text.labels[i, : len(head)].eq(IGNORE).all() and text.labels[i, length:].eq(IGNORE).all()
        assert torch.equal(text.labels[i, len(head) : length], ids[len(head) : length])
        assert ids[length:].eq(tokenizer.pad_token_id).all() and not text.attention_mask[i, length:].any()


def test_a_long_report_is_cut_before_its_end_symbol(tokenizer):
    ids = report_ids(tokenizer, "the heart is normal in size . " * 9, 5)
    assert len(ids) == 6 and ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1]
    text = text_batch(tokenizer, "P", ["the heart is normal in size . " * 9], 5)
    assert text.labels[0, -1] == tokenizer.eos_token_id


def test_the_pad_token_is_never_a_token_of_text(tokenizer, sentences):
    assert tokenizer.pad_token_id not in tokenizer(" ".join(sentences)).input_ids
    assert tokenizer.pad_token_id != tokenizer.eos_token_id and tokenizer.padding_side == "left"
    from emrrg_lib.language.llm import train_tokenizer

    bare = train_tokenizer(sentences, 320)
    bare.pad_token = None
    assert prepare_tokenizer(bare).pad_token == "<|endoftext|>"
    bare.eos_token = None
    with pytest.raises(InputError, match="no end symbol"):
        prepare_tokenizer(bare)


# ------------------------------------------------------------------------------------- run folders


@pytest.fixture
def saved(make_encoder, make_llm, tokenizer, small_config, tmp_path):
    """A configuration whose weights are files: a small encoder and a small LM."""
    save_vision_encoder(make_encoder(), tmp_path / "encoder.safetensors")
    make_llm().save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return replace(
        small_config,
        encoder_weights=str(tmp_path / "encoder.safetensors"),
        llm=LLMConfig(name=str(tmp_path / "lm"), hybrid_layers=(0, 1)),
    )


def train_a_little(model, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model.eval()


def test_a_run_folder_gives_the_model_back(saved, batch, tmp_path):
    model, run = train_a_little(EMRRG.from_preset(saved)), tmp_path / "run"
    write_config(run, saved)
    write_trained(run, model)
    torch.manual_seed(99)
    again = EMRRG.from_run(run)
    assert not again.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert torch.equal(again(**batch)["loss"], model(**batch)["loss"])
    given = batch["pixel_values"], batch["view_mask"]
    assert again.generate(*given) == model.generate(*given)
    fresh = EMRRG.from_preset(saved).eval()
    assert not torch.equal(fresh(**batch)["loss"], model(**batch)["loss"])


def test_the_same_seed_builds_the_same_model(saved):
    one, two = EMRRG.from_preset(saved), EMRRG.from_preset(saved)
    other = EMRRG.from_preset(replace(saved, train=replace(saved.train, seed=1)))
    assert torch.equal(one.projector.weight, two.projector.weight)
    assert not torch.equal(one.projector.weight, other.projector.weight)


def test_trained_weights_that_do_not_fit_are_refused(saved, tmp_path):
    run = tmp_path / "run"
    write_config(run, saved)
    with pytest.raises(InputError, match="no trained weights at .*trained.safetensors; finish the run"):
        EMRRG.from_run(run)
    larger = replace(saved, partial_lora=PartialLoRAConfig(r=3))
    path = write_trained(run, EMRRG.from_preset(larger))
    with pytest.raises(InputError, match=r"does not fit this model: 8 tensors differ, first 'encoder\."):
        EMRRG.from_run(run)
    model = EMRRG.from_preset(saved)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    write_trained(run, EMRRG.from_preset(replace(saved, partial_lora=PartialLoRAConfig(("X",), r=2))))
    with pytest.raises(InputError, match="4 tensors differ, first 'encoder.*lora_A.lora_in_proj.weight'"):
        model.load_trained(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="trained.safetensors is damaged"):
        model.load_trained(path)
    path.write_text("text")
    with pytest.raises(InputError, match="trained.safetensors is damaged"):
        model.load_trained(path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weights_of_another_size_or_nowhere_are_refused(saved, tmp_path, make_encoder):
    save_vision_encoder(make_encoder(depth=1), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="other.safetensors is EncoderConfig.*depth=1.*choose weights"):
        EMRRG.from_preset(replace(saved, encoder_weights=str(tmp_path / "other.safetensors")))
    with pytest.raises(InputError, match="no checkpoint at nowhere.pth"):
        EMRRG.from_preset(replace(saved, encoder_weights="nowhere.pth"))
    with pytest.raises(InputError, match="unknown preset 'huge'"):
        EMRRG.from_preset("huge")
    for name in ("nobody/no-such-model", str(tmp_path / "no-folder")):
        with pytest.raises(InputError, match=f"cannot load the language model '{re.escape(name)}'.*download"):
            load_llm(name)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"hybrid_layers": (0, 2)}, "hybrid layer index 2 is out of range: the LLM has 2 layers"),
        ({"hybrid_layers": ()}, "the image cannot reach the LLM: choose hybrid_layers"),
    ],
)
def test_hybrid_layers_that_would_do_nothing_are_refused(make_model, small_config, change, said):
    with pytest.raises(InputError, match=said):
        make_model(replace(small_config, llm=replace(small_config.llm, **change)))


# ------------------------------------------------------------------------ visual tokens in the prompt


def shown(config, how, **changes):
    return replace(config, llm=replace(config.llm, visual_in_prompt=how, **changes))


def prompt_batch(model, config, images):
    text = text_batch(
        model.tokenizer,
        config.data.prompt,
        REPORTS,
        config.data.max_length,
        config.llm.image_in_prompt,
    )
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    return {
        "pixel_values": images(3),
        "view_mask": mask,
        "input_ids": text.input_ids,
        "attention_mask": text.attention_mask,
        "labels": text.labels,
    }


@pytest.mark.parametrize(
    "how, views, count",
    [
        ("none", "concat", 0),
        ("all", "concat", 2 * TOKENS),
        ("all", "mean", TOKENS),
        ("pooled", "concat", 2 * 4),
        ("pooled", "mean", 4),
    ],
)
def test_the_prompt_holds_the_visual_tokens_that_are_asked_for(
    make_model, small_config, images, how, views, count
):
    model = make_model(shown(with_data(small_config, views=views), how))
    states, mask = model.encode(images(2), torch.tensor([[True, True], [True, False]]))
    prompt = torch.tensor([prompt_ids(model.tokenizer, "Say.", how != "none")] * 2)
    inputs = model.llm_inputs(prompt, torch.ones_like(prompt), states, mask)
    slot = model.tokenizer("Human: <Img>", add_special_tokens=False, return_length=True).length[0]
    embeds, table = inputs["inputs_embeds"], model.llm.get_input_embeddings().weight
    assert embeds.shape[1] == prompt.shape[1] + count
    assert torch.equal(embeds[:, slot + count :], table[prompt[:, slot:]])
    assert inputs["text_mask"].sum(1).tolist() == [prompt.shape[1]] * 2
    absent = count // 2 if views == "concat" else 0
    assert inputs["attention_mask"].sum(1).tolist() == [embeds.shape[1], embeds.shape[1] - absent]
    if how == "pooled":
        rows = model.tokenizer.decode(prompt[0])
        assert "<Img></Img> Say. \nAssistant:" in rows
        grid = torch.cat([states[0, :8], states[0, 9:TOKENS]]).view(2, 2, 2, 2, -1)
        assert torch.allclose(embeds[0, slot : slot + 4], grid.mean(dim=(1, 3)).flatten(0, 1), atol=1e-6)
    if how == "all":
        assert torch.equal(embeds[:, slot : slot + count], states)


@pytest.mark.parametrize("how", ["pooled", "all"])
@pytest.mark.parametrize("layers", [(0, 1), ()])
def test_generation_with_visual_tokens_in_the_prompt(make_model, small_config, images, how, layers):
    """Cached beams and batches equal a loop that runs everything anew; absent views change nothing."""
    config = shown(small_config, how, hybrid_layers=layers)
    model, pixels = make_model(config), images(2)
    view_mask = torch.tensor([[True, True], [True, False]])
    head = prompt_ids(model.tokenizer, config.data.prompt, True)
    wanted = []
    with torch.no_grad():
        for i in range(2):
            states, mask = model.encode(pixels[i : i + 1], view_mask[i : i + 1])
            row = []
            while len(row) < 8 and model.tokenizer.eos_token_id not in row:
                ids = torch.tensor([head + row])
                inputs = model.llm_inputs(ids, torch.ones_like(ids), states, mask)
                places = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
                logits = model.llm(**inputs, position_ids=places, use_cache=False).logits
                row.append(int(logits[0, -1].argmax()))
            wanted.append(model.tokenizer.decode(row, skip_special_tokens=True).strip())
    assert model.generate(pixels, view_mask, num_beams=1, max_new_tokens=8) == wanted
    beams = model.generate(pixels, view_mask, num_beams=3, max_new_tokens=8)
    assert model.generate(pixels[1:], view_mask[1:], num_beams=3, max_new_tokens=8) == beams[1:]
    assert model.generate(pixels[1:, :1], num_beams=3, max_new_tokens=8) == beams[1:]


@pytest.mark.parametrize("how", ["pooled", "all"])
def test_loss_is_of_the_report_alone_with_visual_tokens_in_the_prompt(make_model, small_config, images, how):
    config = shown(small_config, how)
    model = make_model(config)
    batch = prompt_batch(model, config, images)
    loss = model(**batch)["loss"]
    one = {k: v[2:] for k, v in batch.items()}
    total, count = 0.0, 0
    with torch.no_grad():
        for i in range(3):
            one = {k: v[i : i + 1] for k, v in batch.items()}
            tokens = int((one["labels"] != IGNORE).sum())
            total, count = total + float(model(**one)["loss"]) * tokens, count + tokens
    assert loss.item() == pytest.approx(total / count, abs=1e-5)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_gradient_checkpointing_changes_nothing(make_model, small_config, images):
    def gradients(checkpointing):
        config = shown(small_config, "all")
        model = make_model(config).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        runs = []
        hook = model.llm.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
        model(**prompt_batch(model, config, images))["loss"].backward()
        hook.remove()
        return len(runs), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    (once, plain), (twice, recomputed) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2)
    for name, grad in plain.items():
        assert torch.allclose(grad, recomputed[name], atol=1e-6), name


def test_a_bfloat16_llm_trains_float32_parts(make_encoder, make_llm, tokenizer, small_config, images):
    config = shown(small_config, "all", dtype="bfloat16", tuning="lora")
    model = EMRRG(config, make_encoder(), make_llm().bfloat16(), tokenizer).train()
    kinds = {p.requires_grad: set() for p in model.parameters()}
    for parameter in model.llm.parameters():
        kinds[parameter.requires_grad].add(parameter.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    exact = EMRRG(shown(config, "all", dtype="float32"), make_encoder(), make_llm(), tokenizer)
    batch = prompt_batch(model, config, images)
    loss = model(**batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact(**batch)["loss"].item(), rel=0.05)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert len(model.generate(images(1), max_new_tokens=3)) == 1
    assert model.llm.lm_head.weight.dtype == torch.bfloat16


def test_phantom_studies_go_through_the_whole_model(make_model, small_config, phantom_dir):
    from emrrg_lib.data.annotation import load_annotation
    from emrrg_lib.data.study_set import StudySet

    model, studies = make_model(), StudySet(load_annotation(phantom_dir, "test"), small_config)
    pixels, mask = studies.images(range(len(studies)))
    assert pixels.shape == (2 * len(studies), 3, 16, 16) and mask.all()
    text = text_batch(model.tokenizer, small_config.data.prompt, studies.reports, 12)
    loss = model(
        pixel_values=pixels,
        view_mask=mask,
        input_ids=text.input_ids,
        attention_mask=text.attention_mask,
        labels=text.labels,
    )["loss"]
    assert torch.isfinite(loss)
    assert len(model.generate(pixels, mask, max_new_tokens=4)) == len(studies)
