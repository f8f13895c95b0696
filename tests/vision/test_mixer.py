"""The four-direction mixer against an independent float64 version in plain loops (NOTES A3)."""

import numpy as np
import pytest
import torch
from torch import nn

from emrrg_lib.vision.mamba import DIRECTIONS, MambaMixer, RowBlockLinear, SwiGLU, scan_orders


def make_mixer(dim=16, side=4, backend="reference", seed=0, **sizes):
    """A mixer whose every parameter is random, so that no direction equals another."""
    torch.manual_seed(seed)
    mixer = MambaMixer(dim, depth=2, side=side, scan_backend=backend, **sizes)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return mixer


# --------------------------------------------------- the independent version, one image at a time


def silu(x):
    return x * 0.5 * (1 + np.tanh(x / 2))


def one_direction(p, suffix, xz):
    """f(xz) of one direction: xz (2d, L) in its scan order → (d, L), gated."""
    d, length = xz.shape[0] // 2, xz.shape[1]
    x, z = xz[:d], xz[d:]
    conv, bias = p[f"conv1d{suffix}.weight"][:, 0], p[f"conv1d{suffix}.bias"]
    padded = np.concatenate([np.zeros((d, conv.shape[1] - 1)), x], axis=1)
    x = silu(np.stack([(padded[:, t : t + conv.shape[1]] * conv).sum(1) + bias for t in range(length)], 1))
    A = -np.exp(p[f"A{suffix}_log"])
    rank, states = p[f"dt_proj{suffix}.weight"].shape[1], A.shape[1]
    h, out = np.zeros_like(A), np.zeros_like(x)
    for t in range(length):
        dbc = p[f"x_proj{suffix}.weight"] @ x[:, t]
        dt, B, C = dbc[:rank], dbc[rank : rank + states], dbc[rank + states :]
        step = np.logaddexp(0, p[f"dt_proj{suffix}.weight"] @ dt + p[f"dt_proj{suffix}.bias"])
        h = np.exp(step[:, None] * A) * h + (step * x[:, t])[:, None] * B
        out[:, t] = h @ C + p[f"D{suffix}"] * x[:, t]
    return out * silu(z)


def to_columns(sequence):
    """Drop the cls token at L // 2, transpose the grid, put the same cls token back."""
    length = sequence.shape[1]
    middle, side = length // 2, round((length - 1) ** 0.5)
    cls = sequence[:, middle : middle + 1]
    patches = np.delete(sequence, middle, axis=1).reshape(-1, side, side).transpose(0, 2, 1)
    patches = patches.reshape(len(sequence), -1)
    return np.concatenate([patches[:, :middle], cls, patches[:, middle:]], axis=1)


def mixer_loop(mixer, u):
    """(L, d) → (L, d), written from the formulas of NOTES A3; a transposition undoes itself."""
    p = {k: v.detach().double().numpy() for k, v in mixer.named_parameters()}
    xz = p["in_proj.weight"] @ u.double().numpy().T  # (2d, L)
    columns = to_columns(xz)
    rows_part = one_direction(p, "", xz) + one_direction(p, "_b", xz[:, ::-1])[:, ::-1]
    columns_part = one_direction(p, "_c", columns) + one_direction(p, "_c_b", columns[:, ::-1])[:, ::-1]
    return ((rows_part + to_columns(columns_part)) / 4).T @ p["out_proj.weight"].T


@pytest.mark.parametrize("dim, side, sizes", [(16, 4, {}), (20, 2, {"d_state": 4}), (8, 6, {"d_conv": 3})])
def test_the_mixer_equals_the_float64_loop(dim, side, sizes):
    u = torch.randn(2, side * side + 1, dim, dtype=torch.float64)
    exact = make_mixer(dim, side, **sizes).double()
    wanted = np.stack([mixer_loop(exact, row) for row in u])
    assert np.abs(exact(u).detach().numpy() - wanted).max() < 1e-6 * np.abs(wanted).max()
    for backend in ("reference", "cpu"):
        mixer = make_mixer(dim, side, backend, **sizes)
        got = mixer(u.float()).detach().double().numpy()
        assert np.abs(got - wanted).max() < 2e-5 * np.abs(wanted).max()


def test_the_backends_give_the_same_gradients():
    u, found = torch.randn(2, 17, 16), {}
    for backend in ("reference", "cpu"):
        mixer = make_mixer(backend=backend)
        mixer(u).square().sum().backward()
        found[backend] = {k: p.grad for k, p in mixer.named_parameters()}
    for name, grad in found["reference"].items():
        assert grad.abs().max() > 0, name
        assert torch.allclose(found["cpu"][name], grad, rtol=1e-3, atol=1e-4 * grad.abs().max()), name


# ------------------------------------------------------------------------------------- scan orders


def test_scan_orders_of_a_grid_of_two_by_two():
    assert scan_orders(2).tolist() == [  # patches 0 1 / 3 4, cls token 2
        [0, 1, 2, 3, 4],
        [4, 3, 2, 1, 0],
        [0, 3, 2, 1, 4],
        [4, 1, 2, 3, 0],
    ]


@pytest.mark.parametrize("side", [2, 4, 12, 14])
def test_scan_orders_are_permutations_that_invert_and_keep_the_cls_token_in_the_middle(side):
    orders = scan_orders(side)
    x = torch.randn(side * side + 1)
    for order, inverse in zip(orders, orders.argsort(dim=1), strict=True):
        assert sorted(order.tolist()) == list(range(side * side + 1))
        assert torch.equal(x[order][inverse], x)
        assert order[side * side // 2] == side * side // 2
    columns = torch.from_numpy(to_columns(x[None].numpy())[0])
    assert torch.equal(x[orders[2]], columns) and torch.equal(x[orders[3]], columns.flip(0))


# ---------------------------------------------------------------------------------------- features


def test_features_come_per_direction_in_scan_order():
    mixer, u = make_mixer(), torch.randn(2, 17, 16)
    out, features = mixer(u, return_features=True)
    assert torch.equal(out, mixer(u))
    shapes = {
        "X": (2, 4, 17, 16),
        "Z": (2, 4, 17, 16),
        "dt": (2, 4, 17, 1),
        "B": (2, 4, 17, 16),
        "C": (2, 4, 17, 16),
    }
    assert {k: tuple(v.shape) for k, v in features.items()} == shapes
    X, Z = (u @ mixer.in_proj.weight[rows].T for rows in (slice(0, 16), slice(16, 32)))
    for g, order in enumerate(scan_orders(4)):
        assert torch.allclose(features["X"][:, g], X[:, order], atol=1e-6)
        assert torch.allclose(features["Z"][:, g], Z[:, order], atol=1e-6)


def test_every_linear_is_called_as_a_module():
    """PEFT acts on module calls only; upstream reads `.weight`, so its LoRA never acted."""
    mixer, called = make_mixer(), []
    for name, module in mixer.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    mixer(torch.randn(1, 17, 16))
    wanted = ["in_proj", "out_proj", *(f"{p}{s}" for p in ("x_proj", "dt_proj") for s in DIRECTIONS)]
    assert sorted(called) == sorted(wanted)


def test_row_blocks_are_named_in_the_order_of_the_rows():
    mixer = MambaMixer(768, depth=12, side=2)
    assert mixer.in_proj.row_blocks == {"X": (0, 768), "Z": (768, 1536)}
    assert mixer.x_proj_c_b.row_blocks == {"dt": (0, 48), "B": (48, 64), "C": (64, 80)}
    assert RowBlockLinear(3, a=2, b=5).weight.shape == (7, 3)


def test_batch_equals_single():
    mixer, u = make_mixer(backend="cpu"), torch.randn(3, 17, 16)
    single = torch.cat([mixer(row[None]) for row in u])
    assert torch.allclose(mixer(u), single, atol=1e-6)


def test_fresh_parameters_follow_mamba():
    torch.manual_seed(0)
    mixer = MambaMixer(64, depth=4, side=2)
    for s in DIRECTIONS:
        assert torch.allclose(getattr(mixer, f"A{s}_log").exp(), torch.arange(1.0, 17).expand(64, 16))
        assert torch.equal(getattr(mixer, f"D{s}"), torch.ones(64))
        step = nn.functional.softplus(getattr(mixer, f"dt_proj{s}").bias)
        assert 0.99e-3 <= step.min() < 5e-3 and 2e-2 < step.max() <= 1.01e-1


@pytest.mark.parametrize("dim, hidden", [(128, 341), (768, 2048), (1024, 2730)])
def test_swiglu(dim, hidden):
    layer, x = SwiGLU(dim), torch.randn(2, 3, dim)
    assert layer.w1.weight.shape == (hidden, dim) and layer.w3.weight.shape == (dim, hidden)
    nn.init.normal_(layer.w2.bias)
    p = {k: v.detach().numpy() for k, v in layer.named_parameters()}
    a, b = (x.numpy() @ p[f"{w}.weight"].T + p[f"{w}.bias"] for w in ("w1", "w2"))
    wanted = (silu(a) * b) @ p["w3.weight"].T + p["w3.bias"]
    assert np.allclose(layer(x).detach().numpy(), wanted, atol=1e-5)
