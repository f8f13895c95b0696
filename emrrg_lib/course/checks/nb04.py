"""Checks of notebook 04, hybrid cross-attention. Truth: counts of real layers (NOTES F),
PyTorch's own attention, a softmax over the valid scores alone, `torch.distributions`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from emrrg_lib.course.checks import array, call, exercise, expect, expect_value, stage, tensor
from emrrg_lib.course.checks.nb04_layer import check_5, check_6, check_7  # noqa: F401

LLAMA = (4096, 32, 32, 128)  # hidden, heads, kv_heads, head_dim of Llama-2-7B: 33,566,722 new parameters
LLAMA_SLIPS = {
    33_562_624: "W_k and W_v are right; add the gate (a weight for each number of the heads, a bias) and α.",
    33_566_721: "one is missing: α or the gate's bias.",
    33_566_720: "two are missing: α and the gate's bias.",
    33_558_530: "W_k and W_v have a bias each.",
    16_785_410: "that holds one of W_k and W_v; both are new.",
    50_348_034: "is there a W_q in it? The query is the one of self-attention; nothing new is needed for it.",
    33_566_753: "that is a bias for each head: the gate is one number a word, the same for all heads.",
    33_562_624 + 32 * 129 + 1: "that is a gate for each head: it is one number a word, the same for all.",
    33_562_624 + 32 * 4097 + 1: "that is a gate for each head: it is one number a word, the same for all.",
    50_343_937: "that is a gate for each channel, 4096 · 4097 numbers: the gate is one number a word.",
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

    def by_torch(q: Tensor, K: Tensor, V: Tensor, **options) -> Tensor:
        keys, values = (t.repeat_interleave(len(q) // len(t), dim=0)[None] for t in (K, V))
        out = F.scaled_dot_product_attention(q[None], keys, values, **options)
        return out[0].transpose(0, 1).flatten(1)

    with stage("weights"):
        same = call(cross_attention, q.clone(), K.clone(), flat)
        found = tensor(same, (5, 24), "one row a word; the heads are side by side, 6 · 4.")
        expect(
            bool(((found[..., None] - answers).abs() < 2e-3).any(-1).all()),
            "Where all patches say the same, every word has to fetch just that: do the weights of a word "
            "sum to 1 over the patches? The softmax runs over the last axis.",
        )
    with stage("heads"):
        turns = (
            "heads 0, 1, 2 share the first pair of keys and values, 3, 4, 5 the second; yours take turns. "
            "That is `repeat`; grouped heads need `repeat_interleave`."
        )
        slips = [(answers.repeat(3).repeat_interleave(4).expand(5, -1), turns)]
        cause = "join the heads of each word: the axis of the words comes first (transpose, then flatten)."
        expect_value(same, by_torch(q, K, flat), cause, slips, tolerance=1e-3)
    with stage("Eq. 1"):
        for heads, kv_heads, n, M, h in ((6, 2, 5, 7, 4), (4, 4, 3, 2, 9), (8, 1, 1, 5, 2)):
            q = 2 * torch.randn(heads, n, h, generator=draw)
            K, V = torch.randn(2, kv_heads, M, h, generator=draw)
            yours = call(cross_attention, q.clone(), K.clone(), V.clone())
            array(yours, (n, heads * h), "one row a word, the heads side by side.")
            slips = [
                (
                    by_torch(q, K, V, scale=1.0),
                    f"the scores are not divided by √h, h = {h}: the softmax is too sharp.",
                ),
                (by_torch(q, K, V, scale=1 / h), f"divide by √h, the root of {h}, not by h."),
                (by_torch(q, K, V, scale=heads**-0.5), "h is the width of a head, not the number of heads."),
            ]
            expect_value(yours, by_torch(q, K, V), "softmax(q Kᵀ / √h) V, as in Eq. 1.", slips)
    return "The same numbers as PyTorch's own attention."


@exercise(3)
def check_3(masked_softmax: Callable) -> None:
    """`masked_softmax(scores, valid)`: (n, M), (M,) bool → (n, M); what is not valid gets exactly 0."""
    draw = torch.Generator().manual_seed(3)
    first = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, 3.0, 0.0, 0.0]])
    cases = [(first, torch.tensor([True, False, True, True]))]
    cases += [
        (3 * torch.randn(n, M, generator=draw), torch.rand(M, generator=draw) < 0.6)
        for n, M in ((5, 9), (1, 6))
    ]
    for scores, valid in cases:
        given = scores.clone()
        yours = call(masked_softmax, given, valid.clone())
        expect(torch.equal(given, scores), "Your function changes `scores` itself: work on a copy.")
        _check_mask(yours, scores, valid)
    scores, valid = cases[0]
    with stage("absent token with a score of 1000"):
        yours = call(masked_softmax, scores.masked_fill(~valid, 1000.0), valid.clone())
        expect(
            not bool(tensor(yours).isnan().any()),
            "Yours is NaN: its exponential swamps the others before it is removed. Mask before the softmax.",
        )
        cause = "the score of an absent token must not matter: a finite penalty is not enough."
        expect_value(yours, _masked(scores, valid), cause)
    with stage("present token with a score of −2000"):
        low = scores - 2000
        cause = "the weights depend on differences of scores alone: a penalty of −1000 or so is not enough."
        expect_value(call(masked_softmax, low.clone(), valid.clone()), _masked(low, valid), cause)


def _masked(scores: Tensor, valid: Tensor) -> Tensor:
    truth = torch.zeros_like(scores)
    truth[:, valid] = F.softmax(scores[:, valid], dim=-1)
    return truth


def _check_mask(yours: object, scores: Tensor, valid: Tensor) -> None:
    found = tensor(yours, tuple(scores.shape), "every token keeps its column, the absent one with weight 0.")
    with stage("mask"):
        expect(
            not bool((found[:, valid] == 0).all()),
            "Yours drops all but the absent token: True means valid.",
        )
        slips = [
            (scores.softmax(-1), "The mask does nothing yet."),
            (scores.masked_fill(~valid, 0).softmax(-1), "A score of 0 is not a mask: exp(0) = 1; use −∞."),
            (
                scores.softmax(-1) * valid,
                "The weights of a word do not sum to 1: the absent token took its share before it was "
                "removed. Mask the scores, not the weights.",
            ),
        ]
        expect_value(yours, _masked(scores, valid), "the softmax over the valid tokens alone.", slips)
        expect(not bool(found[:, ~valid].any()), "An absent token's weight has to be exactly 0.")


@exercise(4)
def check_4(gated_update: Callable) -> str:
    """`gated_update(S, X, w_g, b_g, alpha)`, Eq. 2: (n, width) twice, (width,), number, number."""
    draw = torch.Generator().manual_seed(8)
    for n, width in ((5, 6), (3, 8), (4, 4), (1, 3)):
        S, X = torch.randn(2, n, width, generator=draw)
        w_g = torch.randn(width, generator=draw)
        b_g, alpha = torch.randn(2, generator=draw) + torch.tensor([0.5, 1.2])
        yours = _run(gated_update, S, X, w_g, b_g, 0 * alpha)
        with stage("closed"):
            cause = "with α = 0 it has to be S, bit for bit: tanh(0) = 0."
            expect_value(yours, S, cause, [(_wide_open(S, X, w_g, b_g), "α does not act yet.")])
        yours = _run(gated_update, S, X, 0 * w_g, b_g + 30, alpha)
        with stage("warm-up"):
            g_s = 1 - 2 / (torch.exp(2 * alpha) + 1)
            slips = [
                (S + X * alpha, "tanh is missing: g_s = tanh(α), not α."),
                (S + X * torch.sigmoid(alpha), "the gate is a tanh, not a sigmoid: it may be negative."),
                (X * g_s, "S is missing: the update is added to it."),
                (S + X, "α does not act yet."),
                (S * (1 - g_s) + X * g_s, "S keeps its full size: the gated X′ is added, nothing is mixed."),
            ]
            expect_value(yours, S + X * g_s, "S + X′ · tanh(α), where g_d is 1.", slips)
        with stage("dynamic gate"):
            yours = _run(gated_update, S, X, w_g, b_g, alpha)
            _check_dynamic(yours, S, X, w_g, b_g, g_s)
    return "Eq. 2: where a word looks and how much it takes are two questions."


def _wide_open(S: Tensor, X: Tensor, w_g: Tensor, b_g: Tensor) -> Tensor:
    return S + X * torch.tanh(torch.einsum("nc,c->n", S, w_g) + b_g)[:, None]


def _run(answer: Callable, *given: Tensor) -> object:
    copies = [value.clone() for value in given]
    yours = call(answer, *copies)
    same = all(torch.equal(now, old) for now, old in zip(copies, given, strict=True))
    expect(same, "Your function changes its inputs, S perhaps: work on a copy.")
    array(yours, tuple(given[0].shape), "one row a word, as S.")
    return yours


def _check_dynamic(yours: object, S: Tensor, X: Tensor, w_g: Tensor, b_g: Tensor, g_s: Tensor) -> None:
    def with_gate(score: Tensor, gate: Callable = torch.tanh) -> Tensor:
        return S + X * gate(score) * g_s

    score = torch.einsum("nc,c->n", S, w_g)[:, None] + b_g
    channel = "that is a gate for each channel; w_g · S is a sum over the channels: one number a word."
    slips = [
        (with_gate(score - b_g), "the bias b_g is missing."),
        (with_gate(score, torch.sigmoid), "the gate is a tanh, not a sigmoid: it may be negative."),
        (with_gate(score, lambda s: s), "tanh is missing: g_d = tanh(w_g · S + b_g)."),
        (with_gate(S * w_g + b_g), channel),
        (
            with_gate((X @ w_g)[:, None] + b_g),
            "the gate reads S, what the word knows already, not X′.",
        ),
        (
            with_gate(score.mean(0, keepdim=True)),
            "that is one gate for all words; each word has its own.",
        ),
        (S + X * torch.tanh(score), "tanh(α) does not act any more."),
    ]
    if len(S) == S.shape[1]:  # a row of gates fits the columns too
        slips.append(
            (with_gate(score.T), "the gates lie along the columns: a word's gate belongs to its row.")
        )
    where = f"{S.shape[0]} words, width {S.shape[1]}"
    expect_value(yours, with_gate(score), "S + X′ · tanh(w_g · S + b_g) · tanh(α).", slips, where)


@exercise(8)
def check_8(image_gain: Callable) -> str:
    """`image_gain(with_image, blind, ids)`: (n, vocabulary) twice, (n,) → (n − 1,) nats."""
    draw = torch.Generator().manual_seed(4)
    for n, vocabulary in ((6, 9), (4, 30), (12, 5)):
        seen, blind = 2 * torch.randn(2, n, vocabulary, generator=draw)
        ids = torch.randint(vocabulary, (n,), generator=draw)
        copies = (seen.clone(), blind.clone(), ids.clone())
        yours = call(image_gain, *copies)
        same = all(torch.equal(a, b) for a, b in zip(copies, (seen, blind, ids), strict=True))
        expect(same, "Your function changes its inputs: work on copies.")
        expect(
            array(yours, cause="one gain a token").shape != (n,),
            "Yours has a gain for every position, but nothing predicts the first token: "
            f"n − 1 = {n - 1} gains are left.",
        )
        array(yours, (n - 1,), "one gain for each token but the first.")
        _check_gain(yours, seen, blind, ids)
    return "Positive where the image made the word more probable."


def _check_gain(yours: object, seen: Tensor, blind: Tensor, ids: Tensor) -> None:
    def chosen(logits: Tensor, ids: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=logits).log_prob(ids)

    a, b = chosen(seen[:-1], ids[1:]), chosen(blind[:-1], ids[1:])
    raw = (seen - blind)[torch.arange(len(ids) - 1), ids[1:]]
    own = chosen(seen[1:], ids[1:]) - chosen(blind[1:], ids[1:])
    early = chosen(seen[:-1], ids[:-1]) - chosen(blind[:-1], ids[:-1])
    slips = [
        (b - a, "The sign is turned: a gain is positive where the image helps."),
        (
            own,
            "Each token is scored by the logits of its own position, which have already read it. "
            "The position before predicts it.",
        ),
        (early, "The logits of a position predict the next token, ids[1:], not its own."),
        (raw, "That is the difference of raw logits; log_softmax makes log-probabilities."),
        (a.exp() - b.exp(), "That is a difference of probabilities; take the logarithms."),
        ((a - b) / torch.log(torch.tensor(2.0)), "Yours are bits, log₂; the task asks for nats, ln."),
        ((a - b) / torch.log(torch.tensor(10.0)), "Yours are log₁₀; the task asks for nats, ln."),
        (a, "That is log p with the image; log p without it is to be subtracted."),
        (torch.exp(a - b), "That is the ratio of the probabilities; its logarithm is asked."),
    ]
    expect_value(yours, a - b, "log p(token | image) − log p(token | no image).", slips)
