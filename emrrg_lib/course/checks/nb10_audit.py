"""Checks of notebook 10's two audits of a model. Truth: toy models that are built so that one knows of every
parameter whether the loss reaches it, and which way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emrrg_lib.course.checks import call, exercise, expect, expect_value, stage, texts


class _Toy(nn.Module):
    """Layers in use and not (some run for nothing), one frozen, and a low-rank pair with B = 0."""

    def __init__(self, width: int, used: Iterable[int], forgotten: Iterable[int]) -> None:
        super().__init__()
        self.order, self.ignored = list(used), list(forgotten)[::2]
        self.layers = nn.ModuleDict({f"part{i}": nn.Linear(3, width) for i in [*self.order, *forgotten]})
        self.frozen = nn.Linear(3, width).requires_grad_(False)
        self.A, self.B = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.zeros(2, width))

    def forward(self, x: Tensor) -> Tensor:
        _ = [self.layers[f"part{i}"](x) for i in self.ignored]
        return self.frozen(x) + x @ self.A @ self.B + sum(self.layers[f"part{i}"](x) for i in self.order)


class _Nobody(nn.Module):
    """A frozen layer that runs, and a trainable pair that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(3, 4).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(3, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)


@exercise(2)
def check_2(cut_off: Callable) -> str:
    """`cut_off(model, x)` → sorted names of trainable parameters that get no gradient."""
    for width, used, forgotten in ((4, [0], [1]), (5, [3, 0], [2, 1, 4]), (2, [1], [])):
        model, x = _Toy(width, used, forgotten), torch.ones(2, 3)
        with stage(f"parts in use: {len(used)}, not in use: {len(forgotten)}"):
            _names_what_is_cut_off(cut_off, model, x, forgotten)
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)  # left over from another pass
            again = texts(call(cut_off, model, x))
            expect(
                set(again) == _of_parts(forgotten),
                "With gradients left over from an earlier pass it finds less: set them to None first.",
            )
    with stage("the loss reaches nothing that trains"):
        expect_value(
            texts(call(cut_off, _Nobody(), torch.ones(2, 3))),
            ["lora_A.weight", "lora_B.weight"],
            "nobody calls the pair, so there is no way back, and both are cut off.",
        )
    return "zero_grad, backward, grad is None: an audit in three lines."


def _of_parts(numbers: Iterable[int]) -> set[str]:
    return {f"layers.part{i}.{kind}" for i in numbers for kind in ("weight", "bias")}


def _names_what_is_cut_off(cut_off: Callable, model: _Toy, x: Tensor, forgotten: list[int]) -> None:
    names = texts(call(cut_off, model, x), "give the names of the parameters as a sorted list")
    yours, expected = set(names), _of_parts(forgotten)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    expect(
        not yours & {"frozen.weight", "frozen.bias"},
        "It names frozen.weight or frozen.bias: they are not meant to train, so do not ask them.",
    )
    expect(yours != trained - expected, "The loss reaches these; name the others.")
    expect(yours != trained, "It names all that train: was there a backward pass?")
    expect(
        "A" not in yours,
        "It names A. While B is 0 the gradient of A is zeros, which is a gradient: the "
        "loss reaches it. None is the sign.",
    )
    expect(yours == expected, f"Yours {sorted(yours)}, expected {sorted(expected)}.")
    expect(names == sorted(yours), f"The right names, but not sorted, each once: {names}.")


class _Block(nn.Module):
    """Holds a number of its own and a layer; its user reads both and never calls it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.linear = nn.Parameter(torch.ones(width)), nn.Linear(width, width)


class _Mixed(nn.Module):
    """Parameters in each of the three states, in `depth` blocks."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.position, self.gate = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(1))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.first, self.wasted = nn.Linear(width, width), nn.Linear(width, width)
        self.forgotten, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.closed = nn.Linear(width, width)
        self.first.requires_grad_(False)  # frozen, and used
        self.blocks[0].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) + self.position + self.gate * self.closed(x)
        self.wasted(x)  # nobody takes its answer
        for block in self.blocks:
            x = F.linear(torch.tanh(x), block.linear.weight) * block.scale
        return self.norm(x) ** 2

    def truth(self) -> dict[str, str]:
        told = {"position": "called", "gate": "called"}
        told |= {
            f"blocks.{i}.{k}": "read" for i in range(len(self.blocks)) for k in ("scale", "linear.weight")
        }
        told |= {f"blocks.{i}.linear.bias": "unused" for i in range(len(self.blocks))}
        for name in ("first", "wasted", "forgotten", "norm", "closed"):
            state = "unused" if name in ("wasted", "forgotten") else "called"
            told |= {f"{name}.{kind}": state for kind in ("weight", "bias")}
        return told


def _state_of(model: nn.Module) -> dict[str, Any]:
    return {
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "weights": [p.tolist() for p in model.parameters()],
    }


@exercise(6)
def check_6(how_used: Callable) -> str:
    """`how_used(model, x)` → {name of a parameter: "called", "read" or "unused"}."""
    for width, depth in ((3, 1), (4, 3)):
        torch.manual_seed(depth)
        model, x = _Mixed(width, depth), torch.randn(5, width)
        for kind in ("new", "gradients left over"):
            with stage(f"blocks: {depth}, {kind}"):
                before = copy.deepcopy(_state_of(model))
                yours = call(how_used, model, x)
                expect(isinstance(yours, Mapping), f"Return a dict name → word, yours is {yours!r:.60}.")
                _same_uses(dict(yours), model.truth(), ["first.weight", "blocks.0.scale"])
                after = _state_of(model)
            with stage("as it was found"):
                for name in before:
                    expect(
                        before[name] == after[name], f"Afterwards the model's {name} are not as they were."
                    )
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
    return "“Called” is what a forward-hook counter sees; “read” is what it misses."


def _same_uses(yours: Mapping[str, str], truth: Mapping[str, str], frozen: list[str]) -> None:
    lacking, foreign = sorted(set(truth) - set(yours)), sorted(set(yours) - set(truth), key=str)
    expect(not foreign, f"{foreign[:3]} are no names of parameters.")
    expect(
        not lacking,
        f"{lacking[:3]} are not in your table; frozen parameters belong in it, and those of every module.",
    )
    expect(
        any(yours[name] != "unused" for name in frozen),
        f"{frozen} are unused in your table: they are frozen, yet the output depends on them.",
    )
    causes = {
        ("called", "read"): "nothing calls the module that holds it; its user reads it.",
        ("called", "unused"): "its module may run, but the output does not depend on it.",
        ("read", "called"): "the module that holds it is called. The model itself is one of the modules.",
        ("read", "unused"): "nothing reads it: the output does not depend on it.",
        ("unused", "called"): "the output depends on it; a gradient of 0 is a gradient.",
        ("unused", "read"): "the output depends on it, though no hook notices.",
    }
    for name, state in truth.items():
        cause = causes.get((yours[name], state) if isinstance(yours[name], str) else ("", ""), "")
        cause = cause or "the words are “called”, “read” and “unused”."
        expect(yours[name] == state, f"{name}: yours {yours[name]!r:.30}, expected {state!r}: {cause}")
