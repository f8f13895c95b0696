"""Checks of notebook 04, hybrid cross-attention. Truth: counts of real layers (NOTES F),
PyTorch's own attention, a softmax over the valid scores alone, `torch.distributions`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from emrrg_lib.course.checks import call, exercise, expect, expect_shape, expect_value

LLAMA = (4096, 32, 32, 128)  # hidden, heads, kv_heads, head_dim of Llama-2-7B: 33,566,722 new parameters
LLAMA_SLIPS = {
    33_562_624: "W_k and W_v are right; add the gate (a weight for each number of the heads, a bias) and α.",
    33_566_721: "one is missing: α or the gate's bias.",
    33_558_530: "W_k and W_v have a bias each.",
    16_785_410: "that holds one of W_k and W_v; both are new.",
    50_348_034: "is there a W_q in it? The query is the one of self-attention; nothing new is needed for it.",
}


@exercise(1)
def check_1(count: Callable) -> None:
    """`count(hidden, heads, kv_heads, head_dim)`: new parameters of one hybrid layer."""
    cause = "count k_proj, v_proj (weight and bias), gate_proj (weight and bias), α."
    expect_value(call(count, *LLAMA), 33_566_722, cause, LLAMA_SLIPS, "Llama-2-7B")
    cause = "heads share keys and values here; W_k and W_v lead to kv_heads · head_dim."
    expect_value(call(count, 128, 4, 2, 32), 16_642, cause, where="The tiny model, 4 heads, 2 kv_heads")
    cause = "the gate reads S, the heads side by side; W_k and W_v read the visual tokens."
    where = "Where heads · head_dim (64) is not hidden (96)"
    expect_value(call(count, 96, 2, 1, 32), 6_274, cause, where=where)


@exercise(2)
def check_2(cross_attention: Callable) -> str:
    """`cross_attention(q, K, V)`, grouped heads: (heads, n, h), (kv_heads, M, h) twice → (n, heads·h)."""
    draw = torch.Generator().manual_seed(2)
    q = 2 * torch.randn(6, 5, 4, generator=draw)
    K, V = torch.randn(2, 2, 7, 4, generator=draw)
    answers = torch.tensor([1.0, 5.0])
    flat = answers[:, None, None].expand(2, 7, 4)  # all patches of a head give the same answer

    def by_torch(V: Tensor, **options) -> Tensor:
        keys, values = (t.repeat_interleave(3, dim=0)[None] for t in (K, V))
        out = F.scaled_dot_product_attention(q[None], keys, values, **options)
        return out[0].transpose(0, 1).flatten(1)

    same = call(cross_attention, q, K, flat)
    expect_shape(same, (5, 24), "one row a word; the heads are side by side, 6 · 4.")
    expect(
        bool(torch.isin(same.round(decimals=3), answers).all()),
        "Where all patches say the same, every word has to fetch just that: do the weights of a word sum "
        "to 1 over the patches? The softmax runs over the last axis.",
    )
    turns = (
        "heads 0, 1, 2 share the first pair of keys and values, 3, 4, 5 the second; yours take turns. "
        "That is `repeat`; grouped heads need `repeat_interleave`."
    )
    slips = [(answers.repeat(3).repeat_interleave(4).expand(5, -1), turns)]
    cause = "join the heads of each word: the axis of the words has to come first (transpose, then flatten)."
    expect_value(same, by_torch(flat), cause, slips)
    yours = call(cross_attention, q, K, V)
    unscaled = "The scores are not divided by √h, h = 4: the softmax is too sharp."
    slips = [(by_torch(V, scale=1.0), unscaled)]
    expect_value(yours, by_torch(V), "softmax(q Kᵀ / √h) V, as in Eq. 1.", slips)
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
    expect(not (yours[:, valid] == 0).all(), "Yours drops all but the absent token: True means valid.")
    slips = [
        (scores.softmax(-1), "The mask does nothing yet."),
        (scores.masked_fill(~valid, 0).softmax(-1), "A score of 0 is not a mask: exp(0) = 1; use −∞."),
        (
            scores.softmax(-1) * valid,
            "The weights of a word do not sum to 1: the absent token took its share before it was removed. "
            "Mask the scores, not the weights.",
        ),
    ]
    expect_value(yours, truth, "the softmax over the valid tokens alone.", slips)
    yours = call(masked_softmax, scores.masked_fill(~valid, 1000.0), valid)
    expect(
        not bool(yours.isnan().any()),
        "With a score of 1000 at the absent token yours is NaN: its "
        "exponential swamps the others before it is removed. Mask before the softmax.",
    )
    expect_value(
        yours,
        truth,
        "the score of an absent token, here 1000, must not matter: a finite penalty is not enough.",
    )


@exercise(4)
def check_4(image_gain: Callable) -> str:
    """`image_gain(with_image, blind, ids)`: (n, vocabulary) twice, (n,) → (n − 1,) nats."""
    draw = torch.Generator().manual_seed(4)
    seen, blind = 2 * torch.randn(2, 6, 9, generator=draw)
    ids = torch.tensor([3, 0, 8, 8, 1, 5])

    def chosen(logits: Tensor, ids: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=logits).log_prob(ids)

    truth = chosen(seen[:-1], ids[1:]) - chosen(blind[:-1], ids[1:])
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
            chosen(seen[1:], ids[1:]) - chosen(blind[1:], ids[1:]),
            "Each token is scored by the logits of its own "
            "position, which have already read it. The position before predicts it.",
        ),
        (raw[at, ids[1:]], "That is the difference of raw logits; log_softmax makes log-probabilities."),
        (
            chosen(seen[:-1], ids[1:]).exp() - chosen(blind[:-1], ids[1:]).exp(),
            "That is a difference of probabilities; take the logarithms.",
        ),
    ]
    expect_value(yours, truth, "log p(token | image) − log p(token | no image).", slips)
    return "Positive where the image made the word more probable."
