"""Checks of notebook 11, the parts of one's own. Truth: patches cut out one by one, the scan as a closed sum
over the past, attention head by head, AdamW written out in NumPy, and the library's greedy reports."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emrrg_lib.course.checks import (
    Mistake,
    array,
    call,
    exercise,
    expect,
    expect_value,
    stage,
)
from emrrg_lib.course.checks.by_hand import changed
from emrrg_lib.course.checks.parts_by_hand import (
    HYBRID_SLIPS,
    LOOP_SLIPS,
    SCAN_SLIPS,
    GatedLine,
    by_heads,
    closed_scan,
    draw_from,
    flows,
    part,
    trained_gate,
)


@exercise(1)
def check_1(my_patches: Callable) -> str:
    """`my_patches(pixels, weight, bias)` → (B, M, d), each patch cut out by hand."""
    for seed, (batch, channels, H, W, P, d) in enumerate(
        [(1, 3, 8, 8, 4, 5), (2, 3, 6, 4, 2, 3), (3, 1, 9, 12, 3, 7)]
    ):
        draw = draw_from(seed)
        pixels, weight, bias = draw(batch, channels, H, W), draw(d, channels, P, P), draw(d)
        before = pixels.clone()
        corners = [(r, c) for r in range(0, H, P) for c in range(0, W, P)]
        cut = torch.stack([pixels[:, :, r : r + P, c : c + P] for r, c in corners], dim=1)
        truth = torch.einsum("bmcij,dcij->bmd", cut, weight) + bias
        where, shape = f"{H} × {W} pixels, patches of {P}", tuple(truth.shape)
        yours = part(my_patches, shape, pixels, weight, bias, cause="(B, M, d), a row for each patch")
        expect(bool((pixels == before).all()), "The pixels have changed; leave the caller's tensor alone.")
        turned = truth.unflatten(1, (H // P, W // P)).transpose(1, 2).flatten(1, 2)
        swapped = torch.einsum("bmcij,dcji->bmd", cut, weight) + bias
        slips = [
            (truth - bias, "the bias is missing."),
            (turned, "the patches go column by column; go row by row."),
            (swapped, "rows and columns inside a patch are exchanged."),
        ]
        expect_value(yours, truth, "each number is patch · kernel, summed, plus bias.", slips, where)
        given = [value.clone().requires_grad_() for value in (pixels, weight, bias)]
        with stage("gradient"):
            yours = part(my_patches, shape, *given, cause="(B, M, d)")
            flows(yours, pixels=given[0], weight=given[1], bias=given[2])
    return "It goes into the model below."


@exercise(2)
def check_2(my_scan: Callable) -> str:
    """`my_scan(u, delta, A, B, C, D)` → (B, G·d, L), against a sum over the whole past."""
    for seed, (batch, G, d, N, L) in enumerate([(1, 1, 1, 1, 4), (2, 1, 3, 4, 7), (2, 4, 2, 3, 6)]):
        draw = draw_from(10 + seed)
        u, delta, A = draw(batch, G * d, L), draw(batch, G * d, L), -draw(G * d, N).abs() - 0.1
        B, C, D = draw(batch, G, N, L), draw(batch, G, N, L), draw(G * d)
        none, some = torch.zeros_like(B), functools.partial(_scan_stage, my_scan, delta=delta, A=A)
        some("D alone", u, B=none, C=C, D=D, cause="with B = 0 only D · u is left, at every token.")
        impulse = torch.zeros_like(u)
        impulse[..., 0] = 1.0
        ones = torch.ones_like(B)
        cause = "the state fades by exp(Δ_t · A), and Δ is softplus of what is given."
        some("decay", impulse, B=ones, C=ones, D=0 * D, cause=cause)
        cause = "B_t writes and C_t reads, each of its own token; the token itself is read too."
        some("B and C per token" if G == 1 else "groups", u, B=B, C=C, D=D, cause=cause)
    inputs = [t.clone().requires_grad_() for t in (u, delta, A, B, C, D)]
    with stage("gradient"):
        mine = part(my_scan, tuple(u.shape), *inputs, cause="(B, G·d, L)")
        flows(mine, **dict(zip(("u", "delta", "A", "B", "C", "D"), inputs, strict=True)))
        back = torch.autograd.grad(mine.square().sum(), inputs)
        true = torch.autograd.grad(closed_scan(*inputs).square().sum(), inputs)
        for name, yours, truth in zip(("u", "Δ", "A", "B", "C", "D"), back, true, strict=True):
            expect_value(yours, truth, "an operation is cut off from it.", where=f"Gradient of {name}")
    return "LoRA learns through this loop below."


def _scan_stage(
    my_scan: Callable,
    name: str,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    cause: str,
) -> None:
    """One stage: the answer equals the closed sum, and known slips have words of their own."""
    given = (u, delta, A, B, C, D)
    kept = [tensor.clone() for tensor in given]
    truth = closed_scan(*given)
    slips = [(closed_scan(*given, slip), told) for slip, told in SCAN_SLIPS.items()]
    slips = [(wrong, told) for wrong, told in slips if not torch.allclose(wrong, truth)]
    with stage(name):
        yours = part(
            my_scan, tuple(u.shape), *given, cause="(B, G·d, L), a number for each channel and token"
        )
        unchanged = all(bool((now == then).all()) for now, then in zip(given, kept, strict=True))
        expect(unchanged, "an input has changed; leave the caller's tensors alone.")
        expect_value(yours, truth, cause, slips)


@exercise(3)
def check_3(MyLoRA: Callable) -> str:
    """`MyLoRA(base, width, out, rows, r, scale)`: a frozen map plus scale · B · A on a block of its rows."""
    for seed, (width, out, rows, r, scale) in enumerate(
        [(5, 8, (0, 4), 2, 1.0), (4, 9, (3, 7), 3, 0.5), (6, 6, (0, 6), 1, 2.0)]
    ):
        draw = draw_from(20 + seed)
        base = nn.Linear(width, out, bias=False).double().requires_grad_(False)
        layer: Any = call(MyLoRA, base, width, out, rows, r, scale)
        expect(isinstance(layer, nn.Module), "MyLoRA makes an nn.Module.")
        x, shape = draw(2, 3, width), (2, 3, out)
        A, B = (getattr(layer, name, None) for name in ("lora_A", "lora_B"))
        with stage("two matrices"):
            good = isinstance(A, nn.Parameter) and isinstance(B, nn.Parameter)
            expect(good, "lora_A and lora_B are nn.Parameters; else no optimiser finds them.")
            expect_value(tuple(A.shape), (r, width), "A is (r, width).", where="lora_A")
            expect_value(
                tuple(B.shape), (rows[1] - rows[0], r), "B has the rows of the block alone.", where="lora_B"
            )
        layer.double()
        with stage("before training"):
            expect(not bool(B.any()), "B starts at 0, so that the layer begins as the frozen one.")
            expect(bool(A.any()), "A starts random: with A = B = 0 both gradients are 0 for ever.")
            yours = part(layer, shape, x, cause="the base's shape")
            expect_value(yours, base(x), "with B = 0 it is the base's output.")
        with torch.no_grad():
            A.copy_(draw(*A.shape)), B.copy_(draw(*B.shape))
        with stage("the update"):
            yours = part(layer, shape, x, cause="the base's shape")
            update, len_rows = x @ A.T @ B.T, rows[1] - rows[0]
            truth = base(x) + scale * F.pad(update, (rows[0], out - rows[1]))
            slips = [
                (base(x) + F.pad(update, (rows[0], out - rows[1])), "the scale is missing."),
                (base(x) + scale * F.pad(update, (0, out - len_rows)), "the update is on other rows."),
                (truth - base(x), "the base's output is missing."),
            ]
            expect_value(
                yours, truth.detach(), "only the rows start … stop − 1 get scale · B · (A · x).", slips
            )
        with stage("training"):
            trained = {name for name, p in layer.named_parameters() if p.requires_grad}
            expect(trained == {"lora_A", "lora_B"}, f"trained are {sorted(trained)}; the base stays frozen.")
            x.requires_grad_()
            flows(part(layer, shape, x, cause="the base's shape"), x=x, lora_A=A, lora_B=B)
        with stage("one around the other"):
            outer: Any = call(MyLoRA, layer, width, out, (0, 1), 1, scale).double()
            flows(part(outer, shape, x, cause="the base's shape"), lora_A=A, lora_B=B)
    return "Nested, two of them make LoRA_p(X) and LoRA(in_proj)."


@exercise(4)
def check_4(MyHybrid: Callable) -> str:
    """`MyHybrid.forward(S, query, visual_states, visual_mask, text_mask)` against Eq. 1 and 2 by heads."""
    for seed, (heads, kv_heads, h, D, n, M) in enumerate(
        [(1, 1, 4, 6, 3, 5), (4, 2, 3, 8, 4, 6), (6, 2, 2, 5, 2, 7)]
    ):
        draw, norm = draw_from(30 + seed), nn.LayerNorm(D).double()
        layer: Any = call(MyHybrid, D, heads, kv_heads, h, norm)
        expect(isinstance(layer, nn.Module), "MyHybrid makes an nn.Module.")
        layer.double()
        with torch.no_grad():
            for p in (*layer.parameters(), *norm.parameters()):
                p.copy_(draw(*p.shape))
        S, query, V = draw(2, n, heads * h), draw(2, heads, n, h), draw(2, M, D)
        seen, text = torch.ones(2, M, dtype=torch.bool), torch.ones(2, n, dtype=torch.bool)
        seen[1, 2:], text[0, 0] = False, False
        run = functools.partial(_hybrid_stage, layer, norm, S, query, V)
        alpha = layer.warm_up.detach().clone()
        layer.warm_up.data.zero_()
        run("α = 0", None, None, "with α = 0 the layer gives S, bit for bit.")
        layer.warm_up.data.copy_(alpha)
        run(
            "one head" if heads == 1 else "groups of heads",
            None,
            None,
            "X′ of Eq. 1 or the gate of Eq. 2 differs.",
        )
        run("visual_mask", seen, None, "a token whose visual_mask is False has no weight at all.")
        run("text_mask", seen, text, "rows whose text_mask is False stay S.")
        given = [value.requires_grad_() for value in (S, query, V)]
        with stage("gradient"):
            yours = part(layer, tuple(S.shape), *given, None, None, cause="the shape of S")
            flows(yours, S=S, query=query, visual=V, **dict(layer.named_parameters()))
    return "It takes the library's place below."


def _hybrid_stage(
    layer: Any,
    norm: nn.Module,
    S: Tensor,
    query: Tensor,
    V: Tensor,
    name: str,
    seen: Tensor | None,
    text: Tensor | None,
    cause: str,
) -> None:
    """One stage: the layer equals Eq. 1 and 2 by heads."""
    given = (layer, norm, S, query, V, seen, text)
    before = S.clone()
    with stage(name):
        truth = by_heads(*given).detach()
        yours = part(layer, tuple(S.shape), *given[2:], cause="the shape of S, (B, n, heads · head_dim)")
        expect(bool((S == before).all()), "S has changed; make a new tensor.")
        slips = [(by_heads(*given, slip), told) for slip, told in HYBRID_SLIPS.items()]
        slips = [(wrong, told) for wrong, told in slips if not torch.allclose(wrong, truth)]
        blind, everyone = by_heads(*given[:5], None, text), by_heads(*given[:5], seen, None)
        slips += [(blind, "visual_mask is not used.")] * (seen is not None)
        slips += [(everyone, "text_mask is not used.")] * (text is not None)
        expect_value(yours, truth, cause, slips)


@exercise(5)
def check_5(my_training: Callable) -> str:
    """`my_training(model, make_batch, count, steps, size, rate, gate_rate, factor, seed)` → losses."""
    for name, count, steps, size, gate_rate in (
        ("one rate", 8, 4, 4, 0.05),
        ("the gate's own rate", 8, 4, 4, 0.3),
        ("a second epoch, a last batch that is left over", 10, 7, 4, 0.3),
    ):
        draw = np.random.default_rng(count + steps)
        x = draw.normal(size=(count, 3))
        y, model = 4 * x @ draw.normal(size=3) + 0.3, GatedLine(*draw.normal(size=(2, 3)))
        start = model.numbers

        def make_batch(numbers: Any, x: np.ndarray = x, y: np.ndarray = y) -> dict[str, Tensor]:
            chosen = [int(n) for n in numbers]
            return {"x": torch.tensor(x[chosen]), "y": torch.tensor(y[chosen])}

        def factor(step: int, steps: int = steps) -> float:
            return 1 - step / steps

        truth = functools.partial(trained_gate, start, x, y, steps, size, 0.05, gate_rate)
        losses, end = truth()
        with stage(name):
            plan = (make_batch, count, steps, size, 0.05, gate_rate, factor, 7)
            yours = array(changed(my_training, model, *plan), (steps,), "return the loss of every step")
            slips = [(truth(slip)[1], told) for slip, told in LOOP_SLIPS.items()]
            slips = [(wrong, told) for wrong, told in slips if not np.allclose(wrong, end, rtol=0, atol=1e-5)]
            cause = "batches, rates, decay, betas or clip differ; compare with the list of rules."
            expect_value(model.numbers, end, cause, slips, "The numbers w, g, b, α at the end", 1e-6)
            expect_value(yours, losses, "the weights are right, the returned losses are not.", where="Losses")
    return "It trains the model below."


@functools.cache
def _reader() -> tuple[Any, list[Tensor], list[str]]:
    """The shipped model, the views of three phantoms, and the library's greedy reports."""
    from emrrg_lib.course.notebook import SHIPPED_RUN
    from emrrg_lib.course.short_training import one_finding
    from emrrg_lib.data.study_set import pixels
    from emrrg_lib.model import EMRRG

    model = EMRRG.from_run(SHIPPED_RUN).cpu()
    views = [pixels([study], model.settings)[0] for study in one_finding(3, 5)]
    return model, views, [model.generate(view[None], num_beams=1)[0] for view in views]


@exercise(6)
def check_6(my_report: Callable) -> str:
    """`my_report(model, pixels)` → the greedy report of one study, as `model.generate` writes it."""
    model, views, truth = _reader()
    for number, (view, expected) in enumerate(zip(views, truth, strict=True), start=1):
        with patch.object(model, "generate") as library:
            yours = call(my_report, model, view)
        expect(not library.called, "It calls model.generate; write the loop yourself.")
        one = isinstance(yours, list | tuple) and len(yours) == 1
        yours = yours[0] if one else yours
        if not isinstance(yours, str):
            raise Mistake(f"A text is expected, yours is of the type {type(yours).__name__}.")
        slips = [(f"{expected} <|endoftext|>", "the end symbol is written out.")]
        slips += [(wrong, "it is another study's report.") for wrong in truth if wrong != expected]
        prompt = model.settings.data.prompt
        expect(prompt not in yours, "the prompt is in the report; decode the new tokens alone.")
        cause = "the likeliest token is taken at each step, until the end symbol."
        expect_value(yours.strip(), expected, cause, slips, f"Study {number}")
    return "Word for word the library's greedy report."
