"""The `cuda` backend keeps every condition of the extensions' C++, forward and backward, on stand-ins."""

import sys

import fake_extensions
import pytest
import torch
from torch.nn.functional import cosine_similarity
from vision_loops import agree, close, conv_loop, inputs, run, scan_loop

from emrrg_lib.config import EncoderConfig, PartialLoRAConfig
from emrrg_lib.tuning.partial_lora import apply_partial_lora
from emrrg_lib.vision import scan as scan_module
from emrrg_lib.vision.mamba import MambaMixer, VisionMamba
from emrrg_lib.vision.scan import causal_conv1d, selective_scan

CASES = [
    *(dict(length=length) for length in (1, 2, 37, 145, 197)),
    *(dict(length=9, groups=groups) for groups in (None, 1, 2)),
    *(dict(length=9, leave_out=out) for out in (("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias"))),
    dict(length=6, dim=3, groups=1, N=32),
]
HALF = ("u", "delta", "B", "C", "z")


@pytest.fixture(autouse=True)
def extensions(monkeypatch):
    """The extensions on the CPU."""
    fake_extensions.install(monkeypatch)
    monkeypatch.setitem(scan_module.DEVICES, "cuda", ("cpu",))
    scan_module.unavailable.cache_clear()
    yield
    scan_module.unavailable.cache_clear()
    sys.modules.pop("emrrg_lib.vision.kernels.scan_cuda", None)


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()))
def test_the_scan(case, softplus):
    values = inputs(**case)
    if not softplus:
        values["delta"] = values["delta"].abs() * 0.3
        values |= {"delta_bias": values["delta_bias"].abs()} if "delta_bias" in values else {}
    agree(values, "cuda", 5e-5, softplus)


@pytest.mark.parametrize("leave_out", [(), ("z",)])
def test_the_scan_in_bfloat16(leave_out):
    values = inputs(41, leave_out=leave_out)
    values = {k: v.bfloat16().double() if k in HALF else v for k, v in values.items()}
    out, grads, dout = run(values, "cuda", half=HALF)
    wanted, wanted_grads = scan_loop(values, True, dout)
    close(out, wanted, 1e-2)
    for name in grads:
        close(grads[name], wanted_grads[name], 1e-2)


def test_mixed_types_are_cast_to_that_of_u():
    leaves = {k: v.float().requires_grad_() for k, v in inputs(9).items()}
    leaves["u"] = leaves["u"].detach().bfloat16().requires_grad_()
    out = selective_scan(**leaves, delta_softplus=True, backend="cuda")
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(leaf.grad.dtype == leaf.dtype for leaf in leaves.values())


def test_more_than_256_states_are_refused():
    with pytest.raises(RuntimeError, match="check 2"):
        selective_scan(**{k: v.float() for k, v in inputs(2, N=300).items()}, backend="cuda")


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("length, dim", [(1, 8), (145, 8), (145, 6)])
@pytest.mark.parametrize("token_major", [True, False])
def test_the_convolution(dtype, tolerance, length, dim, token_major):
    x, dout = (torch.randn(2, length, dim).to(dtype) for _ in range(2))
    x, dout = (t.mT if token_major else t.mT.contiguous() for t in (x, dout))
    leaves = [t.requires_grad_() for t in (x, torch.randn(dim, 4), torch.randn(dim))]
    wanted, grads = conv_loop(*(t.detach().double() for t in leaves), dout.double().numpy())
    out = causal_conv1d(*leaves, backend="cuda")
    out.backward(dout)
    close(out.detach().double().numpy(), wanted, tolerance)
    for leaf, name in zip(leaves, grads, strict=True):
        close(leaf.grad.double().numpy(), grads[name], tolerance)


def results(model, images, half):
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = model(images)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    (out.float() * weights).sum().backward()
    return [out.detach()] + [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("half, lora", [(False, False), (True, False), (True, True)])
def test_the_encoder(half, lora):
    images, found = torch.randn(2, 3, 48, 48), []
    for backend in ("cuda", "reference"):
        torch.manual_seed(0)
        config = EncoderConfig(image_size=48, patch_size=8, embed_dim=32, depth=2)
        model = VisionMamba(config, backend).eval()
        found.append(results(apply_partial_lora(model, PartialLoRAConfig()) if lora else model, images, half))
    for got, wanted in zip(*found, strict=True):
        if wanted.abs().max() > 0:  # lora_A gets no gradient while lora_B is zero
            assert cosine_similarity(got.float().flatten(), wanted.float().flatten(), dim=0) > 0.999
            if not half:
                assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_one_direction_and_inference_mode():
    torch.manual_seed(0)
    mixer, tokens = MambaMixer(32, 2, 4, scan_backend="cuda", directions=1), torch.randn(2, 33, 32)
    same = MambaMixer(32, 2, 4, scan_backend="reference", directions=1)
    same.load_state_dict(mixer.state_dict())
    with torch.inference_mode():
        assert torch.allclose(mixer(tokens), same(tokens), atol=1e-6)


def test_the_probe_calls_the_kernels_forward_and_backward(monkeypatch):
    assert scan_module.unavailable("cuda") is None
    for module, function in (("selective_scan_cuda", "bwd"), ("causal_conv1d", "causal_conv1d_fn")):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[module], function, lambda *args, **kwargs: 1 / 0)
            scan_module.unavailable.cache_clear()
            assert scan_module.unavailable("cuda") == "ZeroDivisionError: division by zero"
