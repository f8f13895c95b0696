"""Checks of notebook 10, paper and released code. Truth: functions whose values are known, a toy model
whose loss reaches known parameters, rows and checkpoints written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from emrrg_lib.course.checks import call, exercise, expect, expect_value


@exercise(1)
def check_1(adapted: Callable) -> None:
    """`adapted(functions, adapters)` → functions x ↦ functions[i](x) + adapters[i](x)."""
    log: list[int] = []

    def noted(number: int, value: Callable) -> Callable:
        def function(x: float) -> float:
            log.append(number)
            return value(x)

        return function

    functions = [noted(0, lambda x: x + 1), noted(1, lambda x: 2 * x), noted(2, lambda x: x * x)]
    adapters = [lambda x: 100.0, lambda x: 200.0, lambda x: 10.0 * x]
    yours = list(call(adapted, functions, adapters))
    expect(
        len(yours) == 3 and all(callable(each) for each in yours),
        "Return a list of three functions, not of values.",
    )
    expect(not log, "functions are called while they are wrapped; they must wait for the new one's call.")
    values = [call(each, 5.0) for each in yours]
    slips = [
        ([75.0] * 3, "all three give 75, the last one's value: still bound late."),
        ([56.0, 60.0, 75.0], "functions[i] is bound rightly, but the adapter is the last one for all."),
        ([6.0, 10.0, 25.0], "where is the adapter? Yours gives the plain functions."),
        ([101.0, 400.0, 2500.0], "the adapter reads x and is added; yours feeds its answer to the function."),
    ]
    expect_value(values, [106.0, 210.0, 75.0], "functions[i](x) + adapters[i](x).", slips, "At 5")


class _Toy(nn.Module):
    """A layer in use, a low-rank pair with B = 0, a layer that is not called, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.forgotten, self.frozen = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)
        self.A, self.B = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.zeros(2, 4))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + x @ self.A @ self.B


@exercise(2)
def check_2(cut_off: Callable) -> str:
    """`cut_off(model, x)` → sorted names of trainable parameters that get no gradient."""
    model, x = _Toy(), torch.ones(2, 3)
    names = call(cut_off, model, x)
    expect(not isinstance(names, (int, str)), f"Yours is {names!r}, expected a list of names.")
    yours = set(names)
    expect(
        not yours & {"frozen.weight", "frozen.bias"},
        "It names frozen.weight or frozen.bias: they are not meant to train, so do not ask them.",
    )
    expect(yours != {"A", "B", "used.weight", "used.bias"}, "The loss reaches these; name the others.")
    expect(len(yours) < 6, "It names all that train: was there a backward pass?")
    expect(
        "A" not in yours,
        "It names A. While B is 0 the gradient of A is zeros, which is a gradient: the "
        "loss reaches it. None is the sign.",
    )
    expect(
        yours == {"forgotten.weight", "forgotten.bias"},
        f"Yours {sorted(yours)}, expected ['forgotten.bias', 'forgotten.weight'].",
    )
    expect(list(names) == sorted(yours), f"The right names, but not sorted: {list(names)}.")
    for parameter in model.forgotten.parameters():
        parameter.grad = torch.ones_like(parameter)  # left over from another pass
    expect(
        set(call(cut_off, model, x)) == yours,
        "With gradients left over from an earlier pass it finds less: set them to None first.",
    )
    return "zero_grad, backward, grad is None: an audit in three lines."


@exercise(3)
def check_3(report_of: Callable) -> None:
    """`report_of(ids, end, pad)` → ids of the report."""
    stages = [  # row, end, pad, report, likely cause
        ([5, 6, 2, 0, 0], 2, 0, [5, 6], "the report, without end symbol and padding"),
        ([5, 0, 6, 2, 0, 0], 2, 0, [5, 0, 6], "here the word 0 is in the report too, and is part of it"),
        ([5, 6, 0], 2, 0, [5, 6, 0], "the row was cut before its end symbol, and its last word is 0"),
        ([5, 6, 2, 2, 2], 2, 2, [5, 6], "here the end symbol is the padding as well"),
        ([5, 6, 2, 7, 2, 0], 2, 0, [5, 6], "what follows the first end symbol does not count"),
    ]
    for ids, end, pad, report, cause in stages:
        yours = list(call(report_of, list(ids), end, pad))
        expect(yours != [*report, end], f"{ids}: yours {yours} still has the end symbol {end}.")
        expect_value(yours, report, f"{cause}.", where=f"{ids}, end {end}, pad {pad}")


def _checkpoint(width: int, depth: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    shapes = {f"{prefix}pos_embed": (1, 197, width), f"{prefix}patch_embed.proj.weight": (width, 3, 16, 16)}
    for block in range(depth):
        shapes |= {
            f"{prefix}layers.{block}.mixer.in_proj.weight": (2 * width, width),
            f"{prefix}layers.{block}.norm1.weight": (width,),
        }
    return shapes


@exercise(4)
def check_4(encoder_size: Callable) -> None:
    """`encoder_size({name: shape})` → (embed_dim, depth)."""
    cause = "read width and depth off names and shapes."
    slips = {
        (3, 96): "width and depth are exchanged.",
        (96, 2): "depth 2 of 3: blocks count from 0, so the highest number is one less.",
        (96, 6): "depth 6 of 3: yours counts names; each block has several.",
    }
    yours = tuple(call(encoder_size, _checkpoint(96, 3)))
    expect_value(yours, (96, 3), cause, slips, "Three blocks of width 96")
    slips = {(768, 10): "depth 10 of 12: as text '9' is above '11'."}
    yours = tuple(call(encoder_size, _checkpoint(768, 12)))
    expect_value(yours, (768, 12), cause, slips, "The base encoder")
    with_text = _checkpoint(1024, 24, "visual_encoder.")
    with_text |= {f"text_encoder.encoder.layer.{i}.output.dense.weight": (768, 3072) for i in range(30)}
    slips = {(1024, 30): "depth 30: the text encoder's `layer.29` is not a block of the encoder."}
    yours = tuple(call(encoder_size, with_text))
    expect_value(yours, (1024, 24), cause, slips, "With the prefix 'visual_encoder.'")
