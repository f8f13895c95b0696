"""Checks of notebook 04, hybrid cross-attention. Truth: counts of real layers (NOTES F),
PyTorch's own attention, a softmax over the valid scores alone, `torch.distributions`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from emrrg_lib.course.checks import call, exercise, expect, expect_close, expect_shape

LLAMA = (4096, 32, 32, 128)  # hidden, heads, kv_heads, head_dim of Llama-2-7B: 33,566,722 new parameters
LLAMA_SLIPS = {
    33_562_624: "W_k and W_v are right; the gate (one weight for each number of the heads, a bias) and α too",
    33_566_721: "one is missing: α or the gate's bias",
    33_558_530: "W_k and W_v have a bias each",
    16_785_410: "that holds one of W_k and W_v; both are new",
    50_348_034: "is there a W_q in it? The query is the one of self-attention; nothing new is needed for it",
}


@exercise(1)
def check_1(count: Callable) -> None:
    """`count(hidden, heads, kv_heads, head_dim)`: new parameters of one hybrid layer."""
    yours = call(count, *LLAMA)
    cause = LLAMA_SLIPS.get(yours, "count k_proj, v_proj (weight and bias), gate_proj (weight and bias), α")
    expect(yours == 33_566_722, f"Llama-2-7B: yours {yours:,}, expected 33,566,722: {cause}.")
    yours = call(count, 128, 4, 2, 32)
    expect(
        yours == 16_642,
        f"The tiny model, 4 heads, 2 kv_heads: yours {yours:,}, expected 16,642: heads "
        "share keys and values here; W_k and W_v lead to kv_heads · head_dim.",
    )
    yours = call(count, 96, 2, 1, 32)
    expect(
        yours == 6_274,
        f"Where heads · head_dim (64) is not hidden (96): yours {yours:,}, expected "
        "6,274: the gate reads S, the heads side by side; W_k and W_v the visual tokens.",
    )


@exercise(2)
def check_2(cross_attention: Callable) -> str:
    """`cross_attention(q, K, V)`, grouped heads: (heads, n, h), (kv_heads, M, h) twice → (n, heads·h)."""
    draw = torch.Generator().manual_seed(2)
    q = 2 * torch.randn(6, 5, 4, generator=draw)
    K, V = torch.randn(2, 2, 7, 4, generator=draw)
    told = torch.tensor([1.0, 5.0])
    flat = told[:, None, None].expand(2, 7, 4)  # all patches of a head say the same

    def by_torch(V: Tensor, **options) -> Tensor:
        keys, values = (t.repeat_interleave(3, dim=0)[None] for t in (K, V))
        out = F.scaled_dot_product_attention(q[None], keys, values, **options)
        return out[0].transpose(0, 1).flatten(1)

    same = call(cross_attention, q, K, flat)
    expect_shape(same, (5, 24), "one row a word; the heads stand side by side, 6 · 4.")
    expect(
        bool(torch.isin(same.round(decimals=3), told).all()),
        "Where all patches say the same, every word has to fetch just that: do the weights of a word sum "
        "to 1 over the patches? The softmax runs over the last axis.",
    )
    expect(
        not torch.allclose(same, told.repeat(3).repeat_interleave(4).expand(5, -1), atol=1e-4),
        "Heads 0, 1, 2 share the first pair of keys and values, 3, 4, 5 the second; yours take turns. "
        "That is `repeat`; grouped heads need `repeat_interleave`.",
    )
    expect_close(
        same,
        by_torch(flat),
        "join the heads of each word: the axis of the words has to come first (transpose, then flatten).",
    )
    yours = call(cross_attention, q, K, V)
    expect(
        not torch.allclose(yours, by_torch(V, scale=1.0), atol=1e-4),
        "The scores are not divided by √h, h = 4: the softmax is too sharp.",
    )
    expect_close(yours, by_torch(V), "softmax(q Kᵀ / √h) V, as in Eq. 1.")
    return "The same numbers as PyTorch's own attention."


@exercise(3)
def check_3(masked_softmax: Callable) -> None:
    """`masked_softmax(scores, valid)`: (n, M), (M,) bool → (n, M); what is not valid gets exactly 0."""
    scores = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, 3.0, 0.0, 0.0]])
    valid = torch.tensor([True, False, True, True])
    truth = torch.zeros(2, 4)
    truth[:, valid] = F.softmax(scores[:, valid], dim=-1)
    yours = call(masked_softmax, scores.clone(), valid)
    expect_shape(yours, (2, 4), "every token keeps its column, the absent one with weight 0.")
    expect(not torch.allclose(yours, scores.softmax(-1)), "The mask does nothing yet.")
    expect(
        not (yours[:, valid] == 0).all(),
        "Yours keeps the absent token and drops the others: True means valid.",
    )
    expect(
        not torch.allclose(yours, scores.masked_fill(~valid, 0).softmax(-1)),
        "A score of 0 is no mask: exp(0) = 1. Only a score of −∞ gets weight 0.",
    )
    total = float(yours[1].sum())
    expect(
        abs(total - 1) < 1e-5,
        f"The weights of a word sum to {total:.2f}, expected 1: the absent token took its share before it "
        "was removed. Mask the scores, not the weights.",
    )
    expect_close(yours, truth, "the softmax over the valid tokens alone.")
    yours = call(masked_softmax, scores.masked_fill(~valid, 1000.0), valid)
    expect(
        not bool(yours.isnan().any()),
        "With a score of 1000 at the absent token yours is NaN: its "
        "exponential swamps the others before it is removed. Mask before the softmax.",
    )
    expect_close(
        yours,
        truth,
        "the score of an absent token must not matter, here it is 1000: a finite penalty is not enough.",
    )


@exercise(4)
def check_4(image_gain: Callable) -> str:
    """`image_gain(with_image, blind, ids)`: (n, vocabulary) twice, (n,) → (n − 1,) nats."""
    draw = torch.Generator().manual_seed(4)
    seen, blind = 2 * torch.randn(2, 6, 9, generator=draw)
    ids = torch.tensor([3, 0, 8, 8, 1, 5])

    def told(logits: Tensor, ids: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=logits).log_prob(ids)

    truth = told(seen[:-1], ids[1:]) - told(blind[:-1], ids[1:])
    yours = call(image_gain, seen.clone(), blind.clone(), ids)
    expect(
        tuple(getattr(yours, "shape", ())) != (6,),
        "Yours has a gain for every position, but nothing "
        "predicts the first token: n − 1 = 5 gains are left.",
    )
    expect_shape(yours, (5,), "one gain for each token but the first.")
    at, raw = torch.arange(5), seen - blind
    slips = [
        (-truth, "The sign is turned: a gain is positive where the image helps."),
        (
            told(seen[1:], ids[1:]) - told(blind[1:], ids[1:]),
            "Each token is scored by the logits of its own "
            "position, which have already read it. The position before predicts it.",
        ),
        (raw[at, ids[1:]], "That is the difference of raw logits; log_softmax makes log-probabilities."),
        (
            told(seen[:-1], ids[1:]).exp() - told(blind[:-1], ids[1:]).exp(),
            "That is a difference of probabilities; take the logarithms.",
        ),
    ]
    for wrong, cause in slips:
        expect(not torch.allclose(yours, wrong, atol=1e-4), cause)
    expect_close(yours, truth, "log p(token | image) − log p(token | no image).")
    return "Positive where the image made the word more probable."
