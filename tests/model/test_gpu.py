"""What only a GPU can tell of the whole system; the scans' tests are in tests/vision."""

import dataclasses

import pytest
import torch
from small_config import SMALL

from emrrg_lib.bench import runs
from emrrg_lib.vision.scan import unavailable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
HALF = dataclasses.replace(SMALL, llm=dataclasses.replace(SMALL.llm, dtype="bfloat16"))


def half_model(make_model):
    """A small system whose frozen LLM weights are bfloat16, on the GPU."""
    model = make_model(HALF)
    for parameter in model.llm.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    return model.to("cuda")


@pytest.fixture
def batch():
    """Two studies of two views with reports of eight tokens."""
    ids = torch.randint(3, 300, (2, 9))
    labels = ids.clone()
    labels[:, 0] = -100
    mask = torch.ones(2, 2, dtype=torch.bool)
    images = torch.randn(4, 3, 16, 16)
    return {
        "pixel_values": images,
        "view_mask": mask,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
    }


def test_loss_and_gradients_are_those_of_the_cpu(make_model, batch):
    """Float32 without TF32: the same numbers but for the order of sums."""
    there, here = make_model(), make_model().cuda()
    there(**batch)["loss"].backward()
    here(**{k: v.cuda() for k, v in batch.items()})["loss"].backward()
    wanted = {name: p.grad for name, p in there.named_parameters() if p.grad is not None}
    for name, p in here.named_parameters():
        if name in wanted:
            largest = wanted[name].abs().max().item()
            torch.testing.assert_close(
                p.grad.cpu(), wanted[name], atol=1e-3 * largest + 1e-7, rtol=0, msg=name
            )


def test_mixed_precision_keeps_the_llm_in_bfloat16_and_the_loss(make_model, batch):
    seen, model = [], half_model(make_model)
    model.llm.model.layers[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    loss = model(**{k: v.cuda() for k, v in batch.items()})["loss"]
    loss.backward()
    assert seen == [torch.bfloat16]
    assert loss.item() == pytest.approx(make_model()(**batch)["loss"].item(), abs=0.05)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


def test_reports_and_traces_are_those_of_the_cpu(make_model, batch):
    images = batch["pixel_values"], batch["view_mask"]
    wanted, traces = make_model().generate(*images, num_beams=2, trace=True)
    found, others = make_model().cuda().generate(*images, num_beams=2, trace=True)
    assert found == wanted
    for one, two in zip(traces, others, strict=True):
        assert abs(one.gate - two.gate).max() < 1e-3 and abs(one.attention - two.attention).max() < 1e-3


def test_computing_layers_again_takes_less_memory(make_model, batch):
    peaks, batch = [], {k: v.cuda().repeat(32, *[1] * (v.dim() - 1)) for k, v in batch.items()}
    for again in (False, True):
        model = half_model(make_model).train()
        if again:
            model.gradient_checkpointing_enable()
        loss = model(**batch)["loss"]
        torch.cuda.reset_peak_memory_stats()
        peaks.append(torch.cuda.memory_allocated())
        loss.backward()
        del model, loss
    assert peaks[1] < peaks[0]


def test_a_killed_run_goes_on_exactly_with_triton_and_closely_with_cuda():
    line = runs.resumed(sharded=False)
    exact = unavailable("triton") is None
    assert line["losses"] == pytest.approx(line["resumed"], abs=0 if exact else 1e-2)


def test_fsdp2_of_one_process_over_nccl_has_the_plain_curve():
    line = runs.resumed(sharded=True)
    assert line["losses"] == pytest.approx(line["resumed"], abs=1e-2)
