"""Report generation against a hand-written loop, and the trace against the layers' own numbers."""

import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from emrrg_lib.bench.parts import busy_processes
from emrrg_lib.data.study import Study
from emrrg_lib.data.study_set import pixels
from emrrg_lib.files import InputError
from emrrg_lib.generation import BATCH, batch_size, trace_report, trace_tokens
from emrrg_lib.language.hybrid_decoder import gates_scaled, hybrid_modules
from emrrg_lib.language.prompt import prompt_ids, report_ids
from emrrg_lib.model import EMRRG
from emrrg_lib.phantom import draw_study
from emrrg_lib.trace import Trace

BOTH = torch.ones(2, 2, dtype=torch.bool)


@torch.no_grad()
def greedy_loop(model, pixels, view_mask, steps):
    """One study: the whole text is run anew for every token, no cache, no `generate`."""
    states, mask = model.encode(pixels, view_mask)
    head = prompt_ids(model.tokenizer, model.settings.data.prompt)
    row = []
    for _ in range(steps):
        ids = torch.tensor([head + row])
        logits = model.llm(input_ids=ids, visual_states=states, visual_mask=mask, use_cache=False).logits
        row.append(int(logits[0, -1].argmax()))
        if row[-1] == model.tokenizer.eos_token_id:
            break
    return row


def decoded(model, row):
    return model.tokenizer.decode(row, skip_special_tokens=True).strip()


def test_beside_busy_programs_one_thread_writes_the_same_texts(make_model, images, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    model, pixels, before = make_model(), images(2), torch.get_num_threads()
    threads = []
    model.llm.register_forward_pre_hook(lambda *_: threads.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(2)
        alone = model.generate(pixels, BOTH, max_new_tokens=6)
        with busy_processes(os.cpu_count()):
            time.sleep(2)  # they start
            model.generate(pixels, BOTH, max_new_tokens=1)  # a look
            time.sleep(1)
            threads.clear()
            assert model.generate(pixels, BOTH, max_new_tokens=6) == alone
        assert set(threads) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_greedy_equals_a_hand_written_loop_without_cache(make_model, images):
    model, pixels = make_model(), images(2)
    view_mask = torch.tensor([[True, True], [True, False]])
    wanted = [
        decoded(model, greedy_loop(model, pixels[i : i + 1], view_mask[i : i + 1], 10)) for i in range(2)
    ]
    assert model.generate(pixels, view_mask, num_beams=1) == wanted
    assert all(wanted) and wanted[0] != wanted[1]


@pytest.mark.parametrize("beams", [1, 3])
def test_batch_equals_single_and_twice_is_the_same(make_model, images, beams):
    model, pixels = make_model(), images(3)
    view_mask = torch.tensor([[True, True], [True, False], [True, True]])
    texts = model.generate(pixels, view_mask, num_beams=beams)
    assert model.generate(pixels, view_mask, num_beams=beams) == texts
    for i in range(3):
        assert model.generate(pixels[i : i + 1], view_mask[i : i + 1], num_beams=beams) == texts[i : i + 1]
    assert model.generate(pixels[:1], num_beams=beams) == texts[:1]  # no mask: every view is there


def test_beam_search_finds_a_text_at_least_as_likely_as_greedy(make_model, images):
    model, pixels = make_model(), images(4)
    states, mask = model.encode(pixels, torch.ones(4, 2, dtype=torch.bool))
    head = prompt_ids(model.tokenizer, model.settings.data.prompt)

    def score(beams):
        """Summed log-likelihood per token of each report, computed from the ids that were generated."""
        prompt = torch.tensor([head] * 4)
        out = model.llm.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            visual_states=states,
            visual_mask=mask,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=6,
            min_new_tokens=6,
        )
        logp = model.llm(input_ids=out, visual_states=states, visual_mask=mask).logits.log_softmax(-1)
        logp[..., model.tokenizer.eos_token_id] = 0
        return logp[:, len(head) - 1 : -1].gather(2, out[:, len(head) :, None]).sum((1, 2))

    with torch.no_grad():
        assert float(score(4).sum()) > float(score(1).sum())


def test_the_end_symbol_stops_a_report_and_is_not_text(make_model, images):
    model, pixels = make_model(), images(2)
    end = model.tokenizer.eos_token_id
    with torch.no_grad():  # the tied output matrix: the end symbol now wins everywhere
        model.llm.model.norm.weight.fill_(1.0)
        hidden = {}
        model.llm.lm_head.register_forward_pre_hook(lambda m, args: hidden.update(x=args[0]))
        model.generate(pixels, max_new_tokens=1, num_beams=1)
        model.llm.lm_head.weight[end] = 50 * hidden["x"][:, -1].mean(0)
    texts, traces = model.generate(pixels, num_beams=1, trace=True)
    assert texts == ["", ""]
    assert [t.gate.shape for t in traces] == [(2, 0), (2, 0)]
    longer = model.generate(pixels, num_beams=1, min_new_tokens=5)
    assert all(longer) and not any("endoftext" in text for text in longer)


def test_settings_override_the_configuration(make_model, images):
    model, pixels = make_model(), images(1)
    short, long = (model.generate(pixels, max_new_tokens=n, num_beams=1)[0] for n in (3, 10))
    assert long.startswith(short) and len(long) > len(short)
    with pytest.raises(TypeError, match="num_beam'"):
        model.generate(pixels, num_beam=2)


def test_the_mode_is_restored_also_after_an_error(make_model, images):
    model = make_model().train()
    model.generate(images(1), max_new_tokens=2)
    assert model.training and model.llm.training
    with pytest.raises(ValueError):
        model.generate(images(1) * float("nan"), max_new_tokens=2)
    assert model.training
    assert not make_model().eval().training


def test_the_llms_own_settings_do_not_leak_in(make_model, images):
    """Chat models ship a generation config with sampling and penalties."""
    model, pixels = make_model(), images(1)
    wanted = model.generate(pixels)
    model.llm.generation_config.update(
        repetition_penalty=5.0, num_beams=7, do_sample=True, length_penalty=-3.0
    )
    assert model.generate(pixels) == wanted


# ------------------------------------------------------------------------------------------- trace


def test_a_trace_has_the_right_shapes_and_spells_the_report(make_model, images):
    model, pixels = make_model(), images(2)
    texts, traces = model.generate(pixels, BOTH, trace=True, num_beams=3)
    assert texts == model.generate(pixels, BOTH, num_beams=3)
    for text, trace in zip(texts, traces, strict=True):
        assert isinstance(trace, Trace) and trace.text == text
        count = len(trace.tokens)
        assert trace.gate.shape == (2, count) and trace.attention.shape == (2, 4, count, 2, 16)
        assert trace.grid == (4, 4) and trace.layer_ids == (0, 1)
        alphas = [torch.tanh(m.warm_up).item() for m in hybrid_modules(model.llm).values()]
        assert trace.warm_up == pytest.approx(alphas)


@torch.no_grad()
def test_gate_and_attention_are_those_of_the_position_that_chose_the_word(make_model, images):
    """Recomputed at every word from what enters the layer: the text before it and nothing else."""
    model, pixels = make_model(), images(1)
    states, mask = model.encode(pixels, BOTH[:1])
    head = prompt_ids(model.tokenizer, model.settings.data.prompt)
    row = greedy_loop(model, pixels, BOTH[:1], 6)
    trace = trace_tokens(model, states, mask, row)
    seen = {}
    for index, module in hybrid_modules(model.llm).items():
        module.register_forward_pre_hook(lambda m, args, index=index: seen.update({index: args}))
    for t in range(len(row)):
        model.llm(
            input_ids=torch.tensor([head + row[:t]]), visual_states=states, visual_mask=mask, use_cache=False
        )
        for position, (index, module) in enumerate(hybrid_modules(model.llm).items()):
            S, query = seen[index][0][0, -1], seen[index][1][0, :, -1]
            gate = torch.tanh(S @ module.gate_proj.weight[0] + module.gate_proj.bias[0])
            gate = float(gate * torch.tanh(module.warm_up))
            assert trace.gate[position, t] == pytest.approx(gate, abs=1e-5)
            K = module.k_proj(model.llm.model.layers[index].input_layernorm(states[0])).view(34, 4, 8)
            weights = torch.einsum("hd,mhd->hm", query, K).div(8**0.5).softmax(-1).view(4, 2, 17)
            wanted = np.delete(weights.numpy(), 8, axis=2)  # without the cls token
            assert np.abs(trace.attention[position, :, t] - wanted).max() < 1e-5


def test_attention_of_an_absent_view_is_zero_and_the_cls_share_is_left_out(make_model, images):
    model, pixels = make_model(), images(1)
    _, (trace,) = model.generate(pixels, torch.tensor([[False, True]]), trace=True)
    assert not trace.attention[:, :, :, 0].any()
    share = trace.attention.sum((3, 4))
    assert (share < 1).all() and (share > 0.5).all()


def test_closed_gates_are_zero_in_the_trace(make_model, images):
    model, pixels = make_model(), images(1)
    with gates_scaled(model.llm, {0: 0.0}):
        _, (trace,) = model.generate(pixels, trace=True)
    assert not trace.gate[0].any() and trace.gate[1].all()
    assert trace.attention[0].any()


def test_a_given_report_is_traced_token_by_token(make_model, images):
    model, pixels = make_model(), images(1)
    report = "the heart is enlarged ."
    trace = trace_report(model, pixels, BOTH[:1], report)
    assert trace.text == report
    assert len(trace.tokens) == len(report_ids(model.tokenizer, report, 99)) - 1
    assert "".join(trace.tokens) == " " + report
    cut = trace_report(model, pixels, BOTH[:1], "the heart is normal in size . " * 9)
    assert len(cut.tokens) == 12  # max_length of the configuration
    hybrid = hybrid_modules(model.llm).values()
    assert all(module.recorder is None for module in hybrid)


# ----------------------------------------------------------------------------------------- studies


def test_studies_give_the_reports_of_their_images(make_model, small_config, tmp_path):
    """More studies than one batch, read by the model's own settings; drawn ones need no file."""
    model, drawn = make_model(), [draw_study(1, i, 32) for i in range(BATCH + 1)]
    wanted = model.generate(*pixels(drawn, small_config))
    assert len(set(wanted)) > 1 and model.generate(drawn) == wanted
    texts, traces = model.generate(drawn, trace=True, num_beams=1)
    assert len(texts) == len(traces) == BATCH + 1 and traces[-1].text == texts[-1]
    for view, image in enumerate(drawn[0].images):
        Image.fromarray(image).save(tmp_path / f"{view}.png")
    files = tuple(tmp_path / f"{view}.png" for view in range(2))
    assert model.generate([Study("a", files, "clear .", "test")]) == wanted[:1] == model.generate([files])


def test_packed_images_are_the_padded_ones_without_the_absent_views(make_model, images):
    model, padded = make_model(), images(3)
    view_mask = torch.tensor([[True, True], [False, True], [True, False]])
    assert model.generate(padded[view_mask], view_mask) == model.generate(padded, view_mask)
    assert model.generate(padded[:, 0]) == model.generate(padded[:, :1])  # each image is a study
    with pytest.raises(InputError, match="5 images given for the 4 views of view_mask"):
        model.generate(images(5)[:, 0], view_mask)


@pytest.mark.parametrize("gib, size", [(80, 64), (48, 32), (24, 8)])
def test_a_gpu_takes_as_many_studies_at_once_as_its_memory_holds(monkeypatch, gib, size):
    with torch.device("meta"):
        model = EMRRG.from_sizes("mimic-cxr")
    assert batch_size(model, 3, 100) == BATCH
    memory = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(EMRRG, "device", torch.device("cuda", 0))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: memory)
    assert batch_size(model, 3, 100) == size
