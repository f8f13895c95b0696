"""Checks of the selective scan that grows in notebook 02: written, faded, read; then in chunks, and backward.

The truth is the double sum over the pairs of tokens s ≤ t, in float64, and not a recurrence:
h_t = Σ_s exp(A · (Δ_{s+1} + … + Δ_t)) · Δ_s x_s B_s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from emrrg_lib.course.checks import Mistake, array, call, exercise, expect, expect_value, stage

NAMES = ("x", "delta", "A", "B", "C", "D")


def tokens(seed: int, L: int, d: int = 3, N: int = 4, **fixed: Any) -> dict[str, Tensor]:
    """Random arguments of a scan; `fixed` names those that are one number everywhere."""
    draw = torch.Generator().manual_seed(seed)
    given = {
        "x": torch.randn(L, d, generator=draw),
        "delta": 0.1 + torch.rand(L, d, generator=draw),
        "A": -0.2 - 2 * torch.rand(d, N, generator=draw),
        "B": torch.randn(L, N, generator=draw),
        "C": torch.randn(L, N, generator=draw),
        "D": torch.randn(d, generator=draw),
    }
    return given | {name: torch.full_like(given[name], float(value)) for name, value in fixed.items()}


def states(x: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """(L, d), (L, d), (d, N), (L, N) → (L, d, N): what the state holds after each token."""
    x, delta, A, B = (value.double() for value in (x, delta, A, B))
    since = delta.cumsum(0)
    gap = (since[:, None] - since[None]).clamp(min=0)[..., None]  # (t, s, d, 1): time from s to t
    seen = torch.ones(len(x), len(x)).tril()[..., None, None]
    return (seen * torch.exp(gap * A) * ((delta * x)[..., None] * B[:, None])).sum(1)


def scanned(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The output (L, d) of the selective scan of one sequence."""
    return (states(x, delta, A, B) * C.double()[:, None]).sum(-1) + D.double() * x.double()


def _run(answer: Callable, given: Mapping[str, Tensor], shape: tuple[int, ...], told: str, *more: int) -> Any:
    """Calls the answer and asks that its result has a shape and its arguments are as before."""
    copies = {name: value.clone() for name, value in given.items()}
    result = call(answer, *copies.values(), *more)
    for name, value in given.items():
        expect(bool((copies[name] == value).all()), f"Your function changes its argument {name} in place.")
    array(result, shape, told)
    return result  # as it is: the tolerance follows its precision


@exercise(3)
def check_3(fill: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """`fill(x, delta, B)`: the states of a memory that does not fade."""
    for name, L, d, N in (("one token", 1, 3, 2), ("a sequence", 6, 3, 4), ("a sequence", 9, 2, 5)):
        with stage(name):
            given = tokens(L, L, d, N)
            x, delta, B = (given[part].double() for part in ("x", "delta", "B"))
            write = (delta * x)[..., None] * B[:, None]
            cause = "a table of d × N numbers after each token: Δ_t x_t along d, B_t along N."
            yours = _run(fill, {part: given[part] for part in ("x", "delta", "B")}, (L, d, N), cause)
            sums = (delta * x).cumsum(0)[..., None]
            slips = [
                (write, "these are what each token writes; the state adds them up."),
                ((x[..., None] * B[:, None]).cumsum(0), "the step Δ is missing: the write is Δ_t x_t B_t."),
                ((delta[..., None] * B[:, None]).cumsum(0), "x is missing: the write is Δ_t x_t B_t."),
                (
                    sums * B[:, None],
                    "each token is written with its own B, not with the newest one: multiply, then add up.",
                ),
                (
                    sums * B.cumsum(0)[:, None],
                    "multiply Δ_t x_t and B_t first, then add up: once, not twice.",
                ),
                (write.flip(0).cumsum(0).flip(0), "yours adds up from the end: a state knows the past only."),
                (write.cumsum(0) - write, "the state after token t holds token t too."),
            ]
            expect_value(yours, write.cumsum(0), "h_t = h_{t−1} + Δ_t x_t B_t, beginning with 0.", slips)
    return "A sum without an end: it never forgets, so soon nothing can be found in it."


@exercise(4)
def check_4(fade: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """`fade(x, delta, A, B)`: the states of a memory whose rates are A."""
    stages: tuple[tuple[str, dict[str, float]], ...] = (
        ("no decay", {"A": 0.0}),
        ("one rate, one step", {"A": -1.0, "delta": 0.5}),
        ("a rate for each number", {"delta": 0.5}),
        ("a step for each token", {}),
    )
    for seed, (name, fixed) in enumerate(stages):
        for L, d, N in ((6, 3, 4), (9, 4, 2)):
            with stage(name):
                given = {part: tokens(seed, L, d, N, **fixed)[part] for part in ("x", "delta", "A", "B")}
                yours = _run(fade, given, (L, d, N), "as in the exercise before.")
                cause = "h_t = exp(Δ_t A) · h_{t−1} + Δ_t x_t B_t."
                expect_value(yours, states(**given), cause, _slips_of_fading(**given))
    with stage("skip and forget"):
        given["delta"][4], given["delta"][6] = 0.0, 60.0
        yours = _run(fade, given, (L, d, N), "as in the exercise before.")
        expect_value(yours[4], array(yours)[3], "a token with step 0 must leave the state as it is.")
        expect_value(yours, states(**given), "after a very large step nothing but that token is left.")
    return "Step 0 skips a token, a large step starts afresh."


def _slips_of_fading(x: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> list[tuple[Tensor, str]]:
    """States as common slips make them, each with its cause."""
    x, delta, A, B = (value.double() for value in (x, delta, A, B))
    write = (delta * x)[..., None] * B[:, None]
    before = delta.roll(1, 0)

    def loop(decay: Tensor, write: Tensor = write, late: bool = False) -> Tensor:
        h, found = torch.zeros_like(A), []
        for a, w in zip(decay, write, strict=True):
            h = a * (h + w) if late else a * h + w
            found.append(h)
        return torch.stack(found)

    step = delta[..., None] * A
    return [
        (loop(torch.ones_like(write)), "nothing fades in yours: multiply the old state by exp(Δ_t A)."),
        (loop(step.exp(), late=True), "what is written now must not fade yet: first fade h, then add."),
        (loop(1 + step), "1 + ΔA is only the beginning of exp(ΔA)."),
        (loop(A.exp().expand_as(step)), "the step is missing in the decay: exp(Δ_t A), not exp(A)."),
        (loop((-step).exp()), "the sign: A is negative already, and exp(−ΔA) grows."),
        (loop(step), "the decay is exp(ΔA), not ΔA."),
        (loop((before[..., None] * A).exp()), "token t fades the old state with its own step Δ_t."),
        (loop(step.exp(), x[..., None] * B[:, None]), "the write lost its step: Δ_t x_t B_t."),
        (
            loop(step.exp(), (step.exp() - 1) / A * x[..., None] * B[:, None]),
            "yours is the exact step of exercise 2; Mamba's scan writes with the shortcut Δ_t B_t.",
        ),
    ]


@exercise(5)
def check_5(my_scan: Callable[..., Tensor]) -> str:
    """`my_scan(x, delta, A, B, C, D)` of a batch, against the double sum, from the input alone upwards."""
    stages: tuple[tuple[str, dict[str, float]], ...] = (
        ("input only", {"A": 0.0, "B": 1.0, "C": 1.0, "D": 0.0, "delta": 1.0}),
        ("decay", {"B": 1.0, "C": 1.0, "D": 0.0}),
        ("B and C of each token", {"D": 0.0}),
        ("D, the shortcut", {}),
    )
    for seed, (name, fixed) in enumerate(stages):
        for L, d, N in ((6, 3, 4), (11, 4, 2), (5, 2, 1)):
            with stage(name):
                given = _batch(tokens(seed, L, d, N, **fixed))
                yours = _run(my_scan, given, (1, L, d), "one output for each token and channel.")
                cause = "y_t = C_t · h_t + D x_t, with the state h_t of the exercise before."
                one = {part: given[part] if part in "AD" else given[part][0] for part in NAMES}
                expect_value(yours[0], scanned(**one), cause, _slips_of_reading(**one))
    with stage("several studies"):
        parts = [tokens(10 + study, 7) for study in range(3)]
        given = {name: parts[0][name] for name in "AD"} | {
            name: torch.stack([part[name] for part in parts]) for name in ("x", "delta", "B", "C")
        }
        given = {name: given[name] for name in NAMES}
        truth = torch.stack([scanned(**(part | {n: given[n] for n in "AD"})) for part in parts])
        yours = _run(my_scan, given, (3, 7, 3), "the first axis is the study.")
        expect_value(yours, truth, "each study begins with an empty state and has its own x, Δ, B, C.")
    with stage("causal"):
        later = {name: value.clone() for name, value in given.items()}
        for name in ("x", "delta", "B", "C"):
            later[name][:, 4:] = 5.0
        before, after = (array(_run(my_scan, each, (3, 7, 3), "")) for each in (given, later))
        expect_value(after[:, :4], before[:, :4], "tokens that come later must not change an output.")
    return "This is the scan that all of Mamba is built on."


def _batch(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value if name in "AD" else value[None] for name, value in given.items()}


def _slips_of_reading(**given: Tensor) -> list[tuple[Tensor, str]]:
    """Outputs as common slips make them, each with its cause; first those of the states."""
    x, delta, A, B, C, D = (given[name].double() for name in NAMES)
    skip, held = D * x, states(x, delta, A, B)
    early = torch.cat([torch.zeros_like(held[:1]), held[:-1]])

    def read(h: Tensor, c: Tensor = C) -> Tensor:
        return (h * c[:, None]).sum(-1)

    return [
        *((read(h) + skip, told) for h, told in _slips_of_fading(x, delta, A, B)),
        (read(held), "D x_t, the shortcut past the state, is missing."),
        (read(held) + delta * skip, "D multiplies x_t alone, without the step."),
        (read(held) + D, "D is a weight: D times x_t."),
        (read(early) + skip, "read after the token is written: y_t sees h_t, not h_{t−1}."),
        (read(states(x, delta, A, C), B) + skip, "B and C are exchanged: B writes, C reads."),
        (read(held, C[:1].expand_as(C)) + skip, "each token reads with its own C_t."),
        (read(states(x, delta, A, B[:1].expand_as(B))) + skip, "each token is written with its own B_t."),
        (held.sum(-1) + skip, "C is missing: y_t is the sum of C_t times the state, over its N numbers."),
        (held.mean(-1) * C.sum(-1, keepdim=True) + skip, "multiply by C_t first, then sum over N."),
    ]


class _Count(TorchFunctionMode):
    """Counts the calls of torch."""

    calls = 0

    def __torch_function__(self, function, types, arguments=(), named=None):
        self.calls += 1
        return function(*arguments, **(named or {}))


@exercise(9)
def check_9(scan_in_chunks: Callable[..., Tensor]) -> str:
    """`scan_in_chunks(x, delta, A, B, C, D, size)`: equal for every size, finite, no loop in a chunk."""
    stages = (
        ("one chunk", 7, 7, "all tokens are in one chunk here: is the table of pairs right?"),
        ("a chunk too large", 5, 8, "a chunk may be longer than the sequence."),
        ("chunks of one", 6, 1, "between chunks the state is carried on, and it fades in the next chunk."),
        ("two chunks", 8, 4, "the state at the end of a chunk fades through all of the next one."),
        ("the last is shorter", 11, 4, "the last chunk may be shorter than `size`."),
    )
    for seed, (name, L, size, cause) in enumerate(stages):
        with stage(name):
            given = tokens(seed, L)
            yours = _run(scan_in_chunks, given, (L, 3), "one output for each token.", size)
            expect_value(yours, scanned(**given), cause, _slips_of_chunks(given, size))
    with stage("strong decay"):
        given = tokens(5, 48)
        given["delta"] = given["delta"] * 8
        yours = _run(scan_in_chunks, given, (48, 3), "one output for each token.", 24)
        cause = "a quotient of two products of decays is 0 / 0 here: subtract the sums of ΔA, then take exp."
        expect(bool((abs(array(yours)) < 1e9).all()), f"Yours holds infinite or undefined numbers: {cause}")
        expect_value(yours, scanned(**given), cause)
    with stage("no loop over tokens"):
        calls = []
        for L in (12, 96):
            with _Count() as count:
                call(scan_in_chunks, *tokens(6, L).values(), L)
            calls.append(count.calls)
        expect(
            calls[1] < 3 * calls[0] + 20,
            f"A chunk of 12 tokens takes {calls[0]} calls of torch, one of 96 takes {calls[1]}: "
            "inside a chunk, all tokens are to be computed at once.",
        )
    return "Tokens of a chunk at once, chunks one after the other: so Mamba-2 and the GPU kernels do it."


def _slips_of_chunks(given: Mapping[str, Tensor], size: int) -> list[tuple[Tensor, str]]:
    fresh = [
        scanned(**{name: value if name in "AD" else value[at : at + size] for name, value in given.items()})
        for at in range(0, len(given["x"]), size)
    ]
    found = [(torch.cat(fresh), "each chunk of yours begins with an empty state: carry the last state on.")]
    return found + _slips_of_reading(**given)


@exercise(10)
def check_10(scan_backward: Callable[..., tuple[Tensor, ...]]) -> str:
    """`scan_backward(g, x, delta, A, B, C, D)` against autograd of the double sum."""
    causes = {
        "D": "ΔL/ΔD is the sum of g_t x_t over the tokens.",
        "C": "y_t = C_t · h_t, so C_t gets Σ over channels of g_t h_t.",
        "B": "B_t gets Σ over channels of (gradient of h_t) · Δ_t x_t.",
        "x": "x_t reaches the output twice: through the state, Δ_t B_t, and through D.",
        "delta": "Δ_t acts twice: in the write, x_t B_t, and in the decay, A exp(Δ_t A) h_{t−1}.",
        "A": "A is in the decay of every token: sum Δ_t exp(Δ_t A) h_{t−1} times the gradient of h_t.",
    }
    for seed, (L, d, N) in enumerate(((1, 2, 3), (6, 3, 4), (9, 2, 5))):
        given = tokens(20 + seed, L, d, N)
        g = torch.randn(L, d, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():  # autograd records nothing here
            try:
                yours = call(scan_backward, g.clone(), *(value.clone() for value in given.values()))
            except Mistake as mistake:
                expect("grad" not in str(mistake), "The task is to do without autograd: " + str(mistake))
                raise
        expect(
            isinstance(yours, tuple | list) and len(yours) == 6,
            "Return six gradients: of x, delta, A, B, C, D.",
        )
        with torch.enable_grad():
            leaves = {name: value.double().requires_grad_() for name, value in given.items()}
            truth = torch.autograd.grad(scanned(**leaves), tuple(leaves.values()), g.double())
        found = dict(zip(NAMES, zip(yours, truth, strict=True), strict=True))
        for name, cause in causes.items():
            with stage(f"gradient of {name}, {L} token{'s' * (L > 1)}"):
                mine, wanted = found[name]
                array(mine, tuple(wanted.shape), f"a gradient has the shape of {name}.")
                expect_value(mine, wanted, cause)
    return "The gradient of the state is a scan too: from the last token to the first, with the same decays."
