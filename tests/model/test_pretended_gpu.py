"""The whole path on tensors that say they are on cuda:0: no mix of devices, no wait in a training step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pretended import CUDA, OnGPU, a_gpu, cpu, to_gpu
from torch.nn.functional import cosine_similarity
from transformers import DynamicCache, TrainerCallback

from emrrg_lib import generation
from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.data.study_set import Indices, StudySet
from emrrg_lib.evaluation import predict
from emrrg_lib.files import InputError
from emrrg_lib.language.frozen import HalfStoredLinear, fit_for_cpu
from emrrg_lib.training import engine
from emrrg_lib.training.finetune import StudyCollator, TokenCollator


@pytest.fixture
def build(make_model, small_config):
    """`build(half=True, views="concat")` → a model on the CPU whose LLM reads the image both ways."""

    def make(half=True, views="concat"):
        dtype = "bfloat16" if half else "float32"
        llm = replace(small_config.llm, dtype=dtype, visual_in_prompt="all")
        model = make_model(replace(small_config, llm=llm, data=replace(small_config.data, views=views)))
        for parameter in model.llm.parameters():
            if half and not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        fit_for_cpu(model.llm)
        return model

    return make


@pytest.fixture
def train_set(phantom_dir, small_config):
    return StudySet(load_annotation(phantom_dir, "train"), small_config)


def test_a_mix_of_devices_is_named_with_its_line(monkeypatch):
    with a_gpu(monkeypatch) as waits:
        here = torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match=r"two devices: add.*test_pretended_gpu.py:\d+ here \+ torch"):
            here + torch.ones(3)
        assert (here + torch.ones(())).sum().item() == 6 and here.cpu().tolist() == [1, 1, 1]
        assert [what.split(" at ")[0] for what in waits] == ["_local_scalar_dense", "to the CPU"]


@pytest.mark.parametrize("views", ["concat", "mean"])
def test_a_training_step_is_that_of_the_cpu_and_waits_for_nothing(build, train_set, views, monkeypatch):
    model = build(views=views).train()
    batch = StudyCollator(train_set, model, 0)([0, 1, 2])
    wanted = model(**batch)["loss"]
    wanted.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    grads, stream = [p.grad for p in trained], []
    model.llm.model.layers[1].register_forward_pre_hook(lambda layer, args: stream.append(args[0].dtype))
    with a_gpu(monkeypatch) as waits:
        there = {k: v.to("cuda:0") if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        waits.clear()
        loss = to_gpu(model)(**there)["loss"]
        loss.backward()
        assert not waits
    assert isinstance(loss, OnGPU) and abs(cpu(loss) - wanted) < 0.01 and stream == [torch.bfloat16]
    for parameter, grad in zip((p for p in model.parameters() if p.requires_grad), grads, strict=True):
        if grad.abs().max() > 1e-6:  # a bias of the keys changes nothing
            assert cosine_similarity(cpu(parameter.grad).flatten(), grad.flatten(), dim=0) > 0.9


class Waits(TrainerCallback):
    """What each step waited for, from the first batch that is taken on; logging and saving may wait."""

    def __init__(self, waits):
        self.waits, self.found = waits, []

    def on_step_end(self, *args, **kwargs):
        self.found.append(dict(self.waits))
        self.waits.clear()

    def on_log(self, *args, **kwargs):
        self.waits.clear()


def train(model, studies, out, monkeypatch, **settings):
    """A short training on the pretended GPU: what each step waited for, and the trainer."""
    arguments = engine.TrainingArguments  # they prepare a CPU, and say that it is a GPU
    given = {"use_cpu": True, "logging_steps": 4}
    monkeypatch.setattr(engine, "TrainingArguments", lambda **budget: arguments(**budget | given))
    monkeypatch.setattr(arguments, "device", property(lambda self: self._setup_devices and CUDA))
    monkeypatch.setattr("transformers.Trainer._move_model_to_device", lambda *args: None)
    monkeypatch.setattr("accelerate.Accelerator.prepare_model", lambda self, model, **how: model)
    monkeypatch.setattr("torch.Tensor.pin_memory", lambda tensor: tensor)
    monkeypatch.setattr("torch.cuda.random.get_rng_state", torch.get_rng_state)
    budget = dict(steps=5, batch_size=2, learning_rate=1e-3, save_steps=100, warmup_steps=0) | settings
    with a_gpu(monkeypatch) as waits:
        watch = Waits(waits)
        collate = StudyCollator(studies, to_gpu(model), 0)
        trainer = engine.fit(model, Indices(8), collate, out, callbacks=[watch], **budget)
    return watch.found, trainer


@pytest.mark.parametrize("settings", [dict(clip=0.0), dict(accumulation=2)])
def test_a_training_waits_only_where_it_logs_and_saves(build, train_set, tmp_path, monkeypatch, settings):
    found, trainer = train(build(), train_set, tmp_path, monkeypatch, **settings)
    assert found == 5 * [{}] and trainer.state.log_history[0]["step"] == 4
    assert trainer.optimizer.optimizer.defaults["fused"]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(build, train_set, tmp_path, monkeypatch):
    model, calls = build(), []
    gate = model.llm.model.layers[0].self_attn.cross_attention.gate_proj

    def spoil(module, inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 2 else output

    gate.register_forward_hook(spoil)
    with pytest.raises(
        InputError, match=r"stopped at step 2: loss or gradient is not finite .* number \d, number \d"
    ):
        train(model, train_set, tmp_path, monkeypatch)
    assert len(calls) == 4  # it is looked at where a loss is logged
    assert all(cpu(p).isfinite().all() for p in model.parameters())
    assert not list(tmp_path.glob("checkpoint-*"))


def test_warm_tokens_are_encoded_in_mixed_precision(build, train_set, monkeypatch):
    model, seen = build(), []
    wanted = TokenCollator(train_set, model, 0)([0, 1])
    model.encoder.register_forward_hook(
        lambda module, args, out: seen.append(torch.is_autocast_enabled("cuda"))
    )
    with a_gpu(monkeypatch):
        found = TokenCollator(train_set, to_gpu(model), 0)([0, 1])
    assert all(seen) and torch.equal(found["view_mask"], wanted["view_mask"])
    torch.testing.assert_close(found["tokens"], wanted["tokens"], atol=0.1, rtol=0.05)


@pytest.mark.parametrize("half", [False, True])
def test_reports_and_traces_are_those_of_the_cpu(build, images, half, monkeypatch):
    model, pixels = build(half), images(2)
    mask = torch.tensor([[True, True], [True, False]])
    ways = [dict(num_beams=3, max_new_tokens=6), dict(num_beams=1, max_new_tokens=4, trace=True)]
    wanted, stored = [model.generate(pixels, mask, **way) for way in ways], set()

    def update(self, keys, values, *args, **kwargs):
        stored.update((keys.dtype, values.dtype))
        return before(self, keys, values, *args, **kwargs)

    before = DynamicCache.update
    monkeypatch.setattr(DynamicCache, "update", update)
    with a_gpu(monkeypatch):
        to_gpu(model)
        found = [model.generate(pixels, mask, **way) for way in ways]
        states, there = model.encode(pixels, mask)  # each token anew, without the cache
        prompt = generation._prompt(model, 2)
        inputs = model.llm_inputs(prompt, torch.ones_like(prompt), states, there)
        with model.mixed_precision(), torch.no_grad():
            plain = model.llm.generate(**inputs, max_new_tokens=3, do_sample=False, use_cache=False)
    assert stored == {torch.bfloat16 if half else torch.float32}  # one type: a StaticCache could hold them
    if not half:  # rounding may choose another word
        assert found[0] == wanted[0] and found[1][0] == wanted[1][0]
        cached = model.tokenizer.decode(cpu(plain[0]).tolist()).strip()
        assert wanted[1][0][0].startswith(cached[:3])
        for here, other in zip(found[1][1], wanted[1][1], strict=True):
            np.testing.assert_allclose(here.gate, other.gate, atol=1e-4)
            np.testing.assert_allclose(here.attention, other.attention, atol=1e-4)


def test_predict_writes_what_it_writes_on_the_cpu(build, phantom_dir, tmp_path, monkeypatch):
    model = build(half=False)
    monkeypatch.setattr(predict, "meteor_available", lambda *args: False)
    for place in ("cpu", "gpu"):
        (tmp_path / place).mkdir()
    wanted = predict.predict_run(model, tmp_path / "cpu", phantom_dir)
    with a_gpu(monkeypatch):
        found = predict.predict_run(to_gpu(model), tmp_path / "gpu", phantom_dir)
    assert found.read_text() == wanted.read_text()
    names = [sorted(p.name for p in (tmp_path / place).rglob("*")) for place in ("cpu", "gpu")]
    assert names[0] == names[1] and any(name.endswith(".npz") for name in names[1])


def test_half_stored_weights_work_outside_mixed_precision(monkeypatch):
    layer = torch.nn.Linear(4, 3).bfloat16()
    wanted, x = layer(torch.ones(2, 4).bfloat16()).float(), torch.ones(2, 4)
    with a_gpu(monkeypatch):
        layer.__class__ = HalfStoredLinear
        found = to_gpu(layer)(OnGPU(x))
    assert found.dtype == torch.float32 and torch.equal(cpu(found), wanted)
