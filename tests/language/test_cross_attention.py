"""Gated cross-attention against Eq. (1) and (2) in plain float64 loops; masks, gate, memory of K and V."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from emrrg_lib.files import InputError
from emrrg_lib.language.cross_attention import GatedCrossAttention

D, HEADS, HEAD_DIM, M, N_TEXT = 12, 4, 5, 7, 6


def make(kv_heads=2, gate_input="S", alpha=0.8):
    """Every parameter random; the norm stands for the layer's own input norm."""
    norm = nn.RMSNorm(D)
    module = GatedCrossAttention(D, HEADS, kv_heads, HEAD_DIM, norm, gate_input)
    with torch.no_grad():
        for parameter in (*module.parameters(), *norm.parameters()):
            parameter.copy_(torch.randn(parameter.shape) * 0.7)
        module.warm_up.fill_(alpha)
    return module.double(), norm.double()


def inputs(batch=2):
    double = dict(dtype=torch.float64)
    return {
        "S": torch.randn(batch, N_TEXT, HEADS * HEAD_DIM, **double),
        "query": torch.randn(batch, HEADS, N_TEXT, HEAD_DIM, **double),
        "visual_states": torch.randn(batch, M, D, **double),
        "visual_mask": torch.ones(batch, M, dtype=torch.bool),
        "text_mask": torch.ones(batch, N_TEXT, dtype=torch.bool),
        "hidden": torch.randn(batch, N_TEXT, D, **double),
    }


def paper(module, norm, S, query, visual_states, visual_mask, text_mask, hidden):
    """Eq. (1): X' = MHCA(q, W_k V, W_v V); Eq. (2): S ← S + X' · tanh(w·g + b) · tanh(α)."""
    p = {k: v.detach().numpy() for k, v in module.named_parameters()}
    S, query, visual_states, hidden = (t.detach().numpy() for t in (S, query, visual_states, hidden))
    out, gates, weights = S.copy(), np.zeros(S.shape[:2]), np.zeros((len(S), HEADS, N_TEXT, M))
    for b in range(len(S)):
        V = visual_states[b] / np.sqrt((visual_states[b] ** 2).mean(1, keepdims=True) + 2.220446049250313e-16)
        V = V * norm.weight.detach().numpy()
        keys = V @ p["k_proj.weight"].T + p["k_proj.bias"]
        values = V @ p["v_proj.weight"].T + p["v_proj.bias"]
        for t in range(N_TEXT):
            context = []
            for head in range(HEADS):
                kv = head // (HEADS // module.kv_heads)  # consecutive heads share a key/value head
                rows = slice(kv * HEAD_DIM, (kv + 1) * HEAD_DIM)
                score = keys[:, rows] @ query[b, head, t] / np.sqrt(HEAD_DIM)
                score[~visual_mask[b].numpy()] = -np.inf
                weight = np.exp(score - score.max())
                weights[b, head, t] = weight / weight.sum()
                context.append(weights[b, head, t] @ values[:, rows])
            source = S[b, t] if module.gate_input == "S" else hidden[b, t]
            g_d = np.tanh(p["gate_proj.weight"][0] @ source + p["gate_proj.bias"][0])
            gates[b, t] = g_d * np.tanh(p["warm_up"][0]) * bool(text_mask[b, t])
            out[b, t] += np.concatenate(context) * gates[b, t]
    return out, gates, weights


@pytest.mark.parametrize("gate_input", ["S", "H"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_it_computes_the_papers_equations(kv_heads, gate_input, padded):
    (module, norm), x = make(kv_heads, gate_input), inputs()
    if padded:
        x["visual_mask"][0, 4:] = False
        x["text_mask"][1, :2] = False
    wanted, gates, weights = paper(module, norm, **x)
    fast = module(**x)
    assert np.abs(fast.detach().numpy() - wanted).max() < 1e-10
    module.recorder = []
    slow = module(**x)
    assert torch.allclose(slow, fast, atol=1e-10)
    ((gate, weight),) = module.recorder
    assert np.abs(gate.numpy() - gates).max() < 1e-10 and np.abs(weight.numpy() - weights).max() < 1e-10
    assert not gate.requires_grad and not weight.requires_grad


def test_recording_equals_the_fast_path_in_float32():
    (module, _), x = make(), inputs()
    module, x = module.float(), {k: v.float() if v.is_floating_point() else v for k, v in x.items()}
    module._norm[0].float()
    fast = module(**x)
    module.recorder = []
    assert torch.allclose(module(**x), fast, atol=1e-5)


def test_alpha_zero_and_a_closed_gate_change_no_bit():
    (module, _), x = make(alpha=0.0), inputs()
    assert torch.equal(module(**x), x["S"])
    (module, _), x = make(), inputs()
    module.gate_scale = 0.0
    assert torch.equal(module(**x), x["S"])
    module.gate_scale = 0.5
    half = module(**x) - x["S"]
    module.gate_scale = 1.0
    assert torch.allclose(2 * half, module(**x) - x["S"])


def test_new_modules_start_closed_and_alpha_moves_first():
    module, x = GatedCrossAttention(D, HEADS, 2, HEAD_DIM, nn.Identity()).double(), inputs()
    assert module.warm_up == 0
    module(**x).square().sum().backward()
    grads = {k: p.grad for k, p in module.named_parameters()}
    assert grads["warm_up"].abs() > 0
    assert not any(g.any() for k, g in grads.items() if k != "warm_up")


def test_a_padded_text_row_keeps_every_bit():
    (module, _), x = make(), inputs()
    x["text_mask"][0, 3] = False
    out = module(**x)
    assert torch.equal(out[0, 3], x["S"][0, 3])
    assert ((out - x["S"]).abs().amax(-1) > 0).sum() == 2 * N_TEXT - 1


@pytest.mark.parametrize("recorder", [None, []])
def test_a_padded_visual_token_is_not_seen(recorder):
    (module, _), x = make(), inputs()
    x["visual_mask"][:, 2] = False
    module.recorder = recorder
    one = module(**x)
    x["visual_states"] = x["visual_states"].clone()
    x["visual_states"][:, 2] = 1e6
    assert torch.equal(module(**x), one)
    fewer = x | {"visual_states": x["visual_states"][:, [0, 1, 3, 4, 5, 6]], "visual_mask": None}
    assert torch.allclose(module(**fewer), one, atol=1e-12)


def test_masks_may_be_left_out():
    (module, _), x = make(), inputs()
    assert torch.equal(module(**x | {"visual_mask": None, "text_mask": None}), module(**x))


def test_states_of_another_width_are_refused():
    (module, _), x = make(), inputs()
    with pytest.raises(InputError, match=r"must be 12 wide for this LLM, got \(2, 7, 11\)"):
        module(**x | {"visual_states": x["visual_states"][..., :11]})


# --------------------------------------------------------------------------- the memory of K and V


@pytest.fixture
def counted():
    """A module, its inputs, and how often K has been computed."""
    (module, norm), x, calls = make(), inputs(), []
    module.k_proj.register_forward_hook(lambda *_: calls.append(1))
    return module, norm, x, calls


@torch.no_grad()
def test_keys_and_values_are_computed_once_for_the_same_states(counted):
    module, norm, x, calls = counted
    first = module(**x)
    step = {k: v[..., -1:, :] if k in ("S", "query", "hidden") else v for k, v in x.items()}
    again = module(**step | {"text_mask": None})
    assert len(calls) == 1
    assert torch.allclose(again, first[:, -1:], atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda m, norm, x: x["visual_states"].add_(1),
        lambda m, norm, x: m.k_proj.weight.mul_(2),
        lambda m, norm, x: m.v_proj.bias.add_(1),
        lambda m, norm, x: norm.weight.mul_(-1),
        lambda m, norm, x: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
        lambda m, norm, x: x.update(visual_states=torch.randn_like(x["visual_states"])),
    ],
    ids=["states in place", "k_proj", "v_proj", "norm", "loaded weights", "other states"],
)
def test_keys_and_values_are_refreshed_when_something_changed(counted, change):
    module, norm, x, calls = counted
    module(**x)
    change(module, norm, x)
    wanted, _, _ = paper(module, norm, **x)
    assert np.abs(module(**x).numpy() - wanted).max() < 1e-10
    assert len(calls) == 2


def test_nothing_is_kept_while_gradients_are_recorded(counted):
    module, norm, x, calls = counted
    with torch.no_grad():
        module(**x)
    for _ in range(2):
        module.zero_grad()
        module(**x).sum().backward()
        assert module.k_proj.weight.grad.abs().max() > 0
    assert len(calls) == 3 and module._memory is None


def test_inference_mode_works(counted):
    module, norm, x, calls = counted
    wanted = module(**x).detach()
    with torch.inference_mode():
        states = x["visual_states"] + 0
        assert torch.equal(module(**x | {"visual_states": states}), wanted)
        states.add_(1)
        changed = module(**x | {"visual_states": states})
    assert torch.allclose(changed, module(**x | {"visual_states": x["visual_states"] + 1}))


@torch.no_grad()
def test_a_copy_does_not_use_the_memory_of_its_original(counted):
    module, norm, x, calls = counted
    module(**x)
    twin = copy.deepcopy(module)
    twin.v_proj.bias.add_(3)
    assert not torch.allclose(twin(**x), module(**x))


@pytest.mark.parametrize(
    "kv_heads, gate_input, count", [(16, "S", 8_392_704 + 2_049 + 1), (16, "H", 8_392_704 + 2_049 + 1)]
)
def test_parameters_per_layer_of_qwen(kv_heads, gate_input, count):
    with torch.device("meta"):  # Qwen1.5-1.8B, NOTES F
        module = GatedCrossAttention(2048, 16, kv_heads, 128, nn.Identity(), gate_input)
    assert sum(p.numel() for p in module.parameters()) == count


def test_parameters_per_layer_of_llama_and_the_names_of_the_parts():
    with torch.device("meta"):
        module = GatedCrossAttention(4096, 32, 32, 128, nn.RMSNorm(4096))
    assert {k: p.numel() for k, p in module.named_parameters()} == {
        "k_proj.weight": 4096**2,
        "k_proj.bias": 4096,
        "v_proj.weight": 4096**2,
        "v_proj.bias": 4096,
        "gate_proj.weight": 4096,
        "gate_proj.bias": 1,
        "warm_up": 1,
    }
    assert sum(p.numel() for p in module.parameters()) == 33_566_722
