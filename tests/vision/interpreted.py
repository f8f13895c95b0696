"""The Triton kernels in Triton's interpreter, on a CPU; `test_triton.py` runs this file in an own process."""

import pytest
import torch
from vision_loops import close, conv_loop, inputs, run, scan_loop

from emrrg_lib.config import EncoderConfig
from emrrg_lib.vision import scan as scan_module
from emrrg_lib.vision.mamba import VisionMamba
from emrrg_lib.vision.scan import causal_conv1d, selective_scan

HALF = ("u", "delta", "B", "C", "z")
CASES = [
    dict(length=145, groups=1),  # ten segments, the last one of a single step
    dict(length=37, groups=2),
    dict(length=16, groups=4),  # one whole segment
    dict(length=1),
    dict(length=9, groups=None),
    dict(length=9, groups=1, leave_out=("D",)),
    dict(length=9, groups=1, leave_out=("z",)),
    dict(length=9, groups=1, leave_out=("delta_bias",)),
    dict(length=9, groups=1, leave_out=("D", "z", "delta_bias")),
    dict(length=18, groups=2, N=8),
    dict(length=18, groups=2, N=32),  # 16 channels a program
    dict(length=5, groups=1, dim=3, N=3),  # fewer channels and states than lanes
    dict(length=17, groups=1, dim=40, N=4),  # two programs of a group, the last one short
]


@pytest.mark.parametrize("case, softplus", [*((c, True) for c in CASES), *((c, False) for c in CASES[1:])])
def test_output_and_gradients_equal_the_float64_loop(case, softplus):
    values = inputs(**case, batch=1)
    if not softplus:
        values["delta"] = values["delta"].abs() * 0.3
        values |= {"delta_bias": values["delta_bias"].abs()} if "delta_bias" in values else {}
    out, grads, dout = run(values, "triton", softplus)
    wanted, wanted_grads = scan_loop(values, softplus, dout)
    close(out, wanted, 1e-5)
    for name in values:
        close(grads[name], wanted_grads[name], 1e-5)


@pytest.mark.parametrize("leave_out", [(), ("z",)])
def test_bfloat16_inputs_keep_a_float32_state(leave_out):
    values = inputs(21, groups=2, leave_out=leave_out)
    values = {k: v.bfloat16().double() if k in HALF else v for k, v in values.items()}
    out, grads, dout = run(values, "triton", half=HALF)
    wanted, wanted_grads = scan_loop(values, True, dout)
    close(out, wanted, 4e-3)
    for name in values:
        close(grads[name], wanted_grads[name], 1e-2)


def test_float16_and_mixed_types_are_read_as_they_are():
    values = {k: v.half().double() if k in HALF else v for k, v in inputs(17, groups=1).items()}
    given = {k: v.half() if k in ("u", "B") else v.float() for k, v in values.items()}
    got = selective_scan(**given, delta_softplus=True, backend="triton")
    wanted, _ = scan_loop(values, True, 0 * values["u"].numpy())
    assert got.dtype == torch.float16
    close(got.double().numpy(), wanted, 2**-10)


def test_steps_from_1e_minus_13_to_90_are_right():
    values = inputs(12, groups=2)
    values["delta"] = values["delta"] * 30
    out, grads, dout = run(values, "triton")
    wanted, wanted_grads = scan_loop(values, True, dout)
    close(out, wanted, 1e-5)
    for name in values:
        close(grads[name], wanted_grads[name], 1e-4)
    step = torch.full((1, 1, 1), -30.0)  # 1e-13: 1 + e loses it
    one = torch.ones(1, 1, 1)
    tiny = selective_scan(one, step, -one[0], one, one, delta_softplus=True, backend="triton")
    assert tiny.item() == pytest.approx(torch.exp(step).item(), rel=1e-5)


@pytest.mark.parametrize("length, width", [(1, 4), (3, 4), (70, 4), (8, 3), (8, 2)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_convolution_equals_its_float64_loop(length, width, dtype, tolerance):
    x, dout = (torch.randn(2, 70, length, dtype=torch.float64).to(dtype).double() for _ in range(2))
    leaves = [x, torch.randn(70, width, dtype=torch.float64), torch.randn(70, dtype=torch.float64)]
    wanted, grads = conv_loop(*leaves, dout.numpy())
    given = [leaves[0].to(dtype), leaves[1].float(), leaves[2].float()]
    given = [leaf.requires_grad_() for leaf in given]
    out = causal_conv1d(*given, backend="triton")
    out.backward(dout.to(dtype))
    close(out.detach().double().numpy(), wanted, tolerance)
    for leaf, name in zip(given, ("x", "weight", "bias"), strict=True):
        assert leaf.grad.dtype == leaf.dtype
        close(leaf.grad.double().numpy(), grads[name], tolerance)


def encoder(backend):
    torch.manual_seed(0)
    return VisionMamba(EncoderConfig(image_size=16, patch_size=8, embed_dim=16, depth=1), backend).eval()


def results(model, tokens):
    out = model(tokens)
    parameters = [p for p in model.parameters()]
    return [out, *torch.autograd.grad(out.float().square().sum(), parameters)]


def test_the_block_is_that_of_the_reference_has_equal_bits_twice_and_compiles_as_one_graph():
    tokens = torch.randn(2, 5, 16)
    block, reference = encoder("triton").layers[0], encoder("reference").layers[0]
    found = results(block, tokens)
    for got, wanted in zip(found, results(reference, tokens), strict=True):
        assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max().clamp(min=1e-3)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for other in (block, compiled):
        assert all(torch.equal(a, b) for a, b in zip(found, results(other, tokens), strict=True))


def test_autocast_keeps_the_scan_in_its_inputs_type():
    tokens = torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = (results(encoder(b).layers[0], tokens) for b in ("triton", "reference"))
    for got, right in zip(found, wanted, strict=True):
        cosine = torch.nn.functional.cosine_similarity(got.float().flatten(), right.float().flatten(), dim=0)
        assert cosine > 0.995


def test_auto_takes_it_where_its_probe_passes(monkeypatch, caplog):
    device = torch.device("cpu")  # the interpreter's
    assert scan_module.difference("triton") < 1e-5
    monkeypatch.setattr(scan_module, "DEVICES", {"triton": ("cpu",), "cuda": ("cpu",)})
    assert scan_module.choose_backend("auto", device) == "triton"
    scan_module.unavailable.cache_clear()
    monkeypatch.setattr(scan_module, "difference", {"triton": 0.1, "cuda": float("nan")}.get)
    assert scan_module.choose_backend("auto", device) == "reference"
    assert "triton: it differs from the reference loop by 0.1; cuda: it differs" in caplog.text
    with pytest.raises(ValueError, match="'triton' is not available here .it differs"):
        scan_module.choose_backend("triton", device)
    scan_module.unavailable.cache_clear()


def test_inference_mode_and_its_refusal_of_second_derivatives():
    values = {k: v.float() for k, v in inputs(3, groups=1).items()}
    with torch.inference_mode():
        plain = selective_scan(**values, delta_softplus=True, backend="triton")
    leaf = values["u"].requires_grad_()
    out = selective_scan(**values, delta_softplus=True, backend="triton")
    assert torch.equal(plain, out)
    (grad,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(grad.sum(), leaf)
