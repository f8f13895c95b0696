"""The selective scan and the causal convolution against float64 loops in numpy, on every backend."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from vision_loops import NAMES, agree, close, conv_loop, inputs, run, scan_loop

from emrrg_lib.files import KIT
from emrrg_lib.vision import scan as scan_module
from emrrg_lib.vision.scan import causal_conv1d, selective_scan

CASES = [
    dict(length=145),
    dict(length=1),
    dict(length=2),
    dict(length=3),
    dict(length=37, groups=2),
    dict(length=9, groups=None),
    dict(length=9, groups=1),
    dict(length=9, leave_out=("D",)),
    dict(length=9, leave_out=("z",)),
    dict(length=9, leave_out=("delta_bias",)),
    dict(length=9, leave_out=("D", "z", "delta_bias")),
    dict(length=10, N=4),
    dict(length=5, batch=1),
    dict(length=6, dim=3, groups=1),  # fewer channels in a group than the kernel's lanes
    dict(length=33, dim=260, groups=1, batch=1, N=2),  # three chunks, the last one short; three segments
]


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()))
def test_every_backend_equals_the_float64_loop_forward_and_backward(case, softplus):
    values = inputs(**case)
    if not softplus:  # the caller then gives positive steps
        values = values | {"delta": values["delta"].abs() * 0.3}
        values |= {"delta_bias": values["delta_bias"].abs()} if "delta_bias" in values else {}
    agree(values, "reference", 1e-11, softplus, torch.float64)
    agree(values, "reference", 5e-5, softplus)
    agree(values, "cpu", 5e-5, softplus)


def test_gradcheck_of_the_reference():
    values = {k: v.requires_grad_() for k, v in inputs(4, groups=2, N=3, batch=1, dim=4).items()}

    def call(*leaves):
        return selective_scan(
            **dict(zip(values, leaves, strict=True)), delta_softplus=True, backend="reference"
        )

    assert torch.autograd.gradcheck(call, tuple(values.values()))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_float16_inputs_keep_a_float32_state(backend):
    values = {k: v.half() if k in ("u", "delta", "B", "C", "z") else v.float() for k, v in inputs(17).items()}
    got = selective_scan(**values, delta_softplus=True, backend=backend)
    wanted, _ = scan_loop({k: v.double() for k, v in values.items()}, True, np.zeros(got.shape))
    assert got.dtype == torch.float16
    close(got.double().numpy(), wanted, 2**-10)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("leave_out", [(), ("z",)])
def test_bfloat16_inputs_keep_a_float32_state(backend, leave_out):
    half = {"u", "delta", "B", "C", "z"}
    values = inputs(41, leave_out=leave_out)
    values = {k: v.bfloat16().double() if k in half else v for k, v in values.items()}
    out, grads, dout = run(values, backend, half=half)
    wanted, wanted_grads = scan_loop(values, True, dout)
    close(out, wanted, 4e-3)  # one rounding to 8 bits: 2 ** -8
    for name in grads:
        close(grads[name], wanted_grads[name], 6e-3)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_large_and_tiny_values_stay_finite_and_right(backend):
    values = inputs(12)
    values["delta"] = values["delta"] * 30  # softplus from 1e-30 to 90: decays from 1 to e ** -1000
    values["z"] = values["z"] * 60
    agree(values, backend, 1e-4)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_strided_inputs_give_the_same(backend):
    values = inputs(11)
    strided = {
        k: v.clone().transpose(-1, -2).contiguous().transpose(-1, -2)
        if v.dim() > 1
        else torch.stack([v, v], dim=1)[:, 0]
        for k, v in values.items()
    }
    assert not any(strided[k].is_contiguous() for k in NAMES)
    plain, plain_grads, _ = run(values, backend)
    out, grads, _ = run(strided, backend)
    close(out, plain, 1e-6)
    for name in NAMES:
        close(grads[name], plain_grads[name], 1e-6)
    expanded = values | {"B": values["B"][:, :1].expand(-1, 4, -1, -1)}
    agree(expanded, backend, 5e-5)


def test_a_new_process_finds_the_kernels_and_gets_the_same_bits_on_one_and_two_threads():
    """Compiling takes 20 s, which no process may pay twice; numba fixes its threads when imported."""
    agree(inputs(2), "cpu", 5e-5)  # compiles and stores what is not stored yet
    script = """
import torch
from emrrg_lib.vision.scan import causal_conv1d, selective_scan
def results(threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    u, delta, z = (torch.randn(2, 64, 33, requires_grad=True) for _ in range(3))
    A = (-torch.rand(64, 16)).requires_grad_()
    B, C = (torch.randn(2, 4, 16, 33, requires_grad=True) for _ in range(2))
    D, w, b = (torch.randn(*s, requires_grad=True) for s in ((64,), (64, 4), (64,)))
    x = causal_conv1d(u, w, b, backend="cpu")
    out = selective_scan(x, delta, A, B, C, D, z, delta_softplus=True, backend="cpu")
    return [out, *torch.autograd.grad(out.square().sum(), (u, delta, A, B, C, D, z, w, b))]
one, two = results(1), results(2)
import numba
assert numba.get_num_threads() == 2
assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
from emrrg_lib.vision.kernels import scan_cpu
for kernel in (scan_cpu.scan_forward, scan_cpu.scan_backward):
    assert sum(kernel.stats.cache_hits.values()) == 1 and not sum(kernel.stats.cache_misses.values())
"""
    env = os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(KIT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("half, tolerance", [((), 1e-3), (("u", "delta", "B", "C", "z"), 2e-2)])
@pytest.mark.parametrize("length", [1, 37, 145])
def test_the_gpu_kernels_equal_the_float64_loop(backend, length, half, tolerance):
    if reason := scan_module.unavailable(backend):
        pytest.skip(f"{backend} cannot run here: {reason}")
    values = inputs(length)
    values = {k: v.bfloat16().double() if k in half else v for k, v in values.items()}
    out, grads, dout = run({k: v.cuda() for k, v in values.items()}, backend, half=half)
    wanted, wanted_grads = scan_loop(values, True, dout)
    close(out, wanted, tolerance)
    for name in grads:
        close(grads[name], wanted_grads[name], tolerance)


@pytest.mark.gpu
def test_triton_gives_equal_bits_twice():
    """Output and all gradients: a resumed run repeats exactly."""
    if reason := scan_module.unavailable("triton"):
        pytest.skip(f"triton cannot run here: {reason}")
    values = {k: v.cuda() for k, v in inputs(145).items()}
    first, second = (run(values, "triton") for _ in range(2))
    assert (first[0] == second[0]).all()
    assert all((gradient == second[1][name]).all() for name, gradient in first[1].items())


# ----------------------------------------------------------------------------------------- choosing


def test_an_explicit_backend_is_never_replaced(monkeypatch):
    values = {k: v.float() for k, v in inputs(3).items()}
    with pytest.raises(
        ValueError, match="unknown scan backend 'gpu'; choose auto, reference, cpu, triton, cuda"
    ):
        selective_scan(**values, backend="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda' is not available here .torch sees no CUDA device"):
            selective_scan(**values, backend="cuda")
        with pytest.raises(ValueError, match="'cuda' is not available"):
            causal_conv1d(values["u"], torch.ones(8, 4), torch.ones(8), backend="cuda")
    with pytest.raises(ValueError, match="'cpu' cannot read tensors on 'meta'"):
        selective_scan(**{k: v.to("meta") for k, v in values.items()}, backend="cpu")
    with pytest.raises(ValueError, match="'cpu' works in float32; use 'reference'"):
        selective_scan(**inputs(3), backend="cpu")
    monkeypatch.setattr(scan_module, "unavailable", lambda backend: "ImportError: no numba")
    with pytest.raises(ValueError, match="ImportError: no numba.*emrrg doctor"):
        selective_scan(**values, backend="cpu")


def test_auto_takes_the_kernel_and_says_so_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="emrrg_lib.scan")
    scan_module._announce.cache_clear()
    values = {k: v.float() for k, v in inputs(3).items()}
    first = selective_scan(**values)
    causal_conv1d(values["u"], torch.ones(8, 4), torch.ones(8))
    assert torch.equal(first, selective_scan(**values, backend="cpu"))
    assert [r.getMessage() for r in caplog.records] == ["selective scan on cpu: backend 'cpu'"]
    broken = {"cpu": "ImportError: no numba"}
    monkeypatch.setattr(scan_module, "unavailable", broken.get)
    assert torch.equal(selective_scan(**values), selective_scan(**values, backend="reference"))
    selective_scan(**values)
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert said.startswith("no scan kernel for cpu (cpu: ImportError: no numba): the reference loop")
    for device, sentences in (("meta", 0), ("mps", 1)):
        caplog.clear()
        assert scan_module.choose_backend("auto", torch.device(device)) == "reference"
        assert len([r for r in caplog.records if r.levelname == "WARNING"]) == sentences
    assert "no scan kernel for mps (the kit has none): the reference loop runs instead" in caplog.text


@pytest.mark.parametrize(
    "change, said",
    [
        ({"delta": torch.zeros(2, 8, 4)}, "delta .2, 8, 4. must have the shape of u .2, 8, 3."),
        ({"A": torch.zeros(7, 16)}, "A .7, 16. must be .D, N. with D = 8"),
        ({"B": torch.zeros(2, 3, 16, 3)}, "B .2, 3, 16, 3. must be"),
        ({"C": torch.zeros(2, 4, 15, 3)}, "C .2, 4, 15, 3. must be"),
    ],
)
def test_shapes_that_do_not_agree_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        selective_scan(**({k: v.float() for k, v in inputs(3).items()} | change))


def test_the_cpu_kernel_refuses_second_derivatives():
    values = {k: v.float().requires_grad_() for k, v in inputs(3).items()}
    out = selective_scan(**values, backend="cpu").square().sum()
    (grad,) = torch.autograd.grad(out, values["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# ------------------------------------------------------------------------------------- convolution


@pytest.mark.parametrize(
    "backend, dtype, tolerance",
    [("reference", torch.float64, 1e-12), ("reference", torch.float32, 1e-5), ("cpu", torch.float32, 1e-5)],
)
@pytest.mark.parametrize("length, width", [(1, 4), (2, 4), (3, 4), (145, 4), (8, 3)])
def test_the_convolution_equals_its_float64_loop(backend, dtype, tolerance, length, width):
    leaves = [torch.randn(*shape, dtype=torch.float64) for shape in ((2, 6, length), (6, width), (6,))]
    dout = torch.randn(2, 6, length, dtype=torch.float64)
    wanted, grads = conv_loop(*leaves, dout.numpy())
    given = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    out = causal_conv1d(*given, backend=backend)
    out.backward(dout.to(dtype))
    close(out.detach().double().numpy(), wanted, tolerance)
    for leaf, name in zip(given, ("x", "weight", "bias"), strict=True):
        close(leaf.grad.double().numpy(), grads[name], tolerance)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_convolution_takes_bfloat16_and_strided_input(backend):
    x, weight, bias = torch.randn(2, 9, 6).transpose(1, 2), torch.randn(6, 4), torch.randn(6)
    plain = causal_conv1d(x.contiguous(), weight, bias, backend=backend)
    assert torch.equal(causal_conv1d(x, weight, bias, backend=backend), plain)
    half = causal_conv1d(x.bfloat16(), weight, bias, backend=backend)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), plain, atol=0.05, rtol=0.05)


def test_the_scan_leaves_pytorch_its_threads():
    """Numba's start sets OpenMP to all cores: many processes side by side would fight for them."""
    program = (
        "import torch; from emrrg_lib.vision.scan import causal_conv1d as conv; "
        "conv(torch.ones(1, 2, 4), torch.ones(2, 4), torch.ones(2), backend='cpu'); "
        "print(torch.get_num_threads())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=KIT, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "1"
