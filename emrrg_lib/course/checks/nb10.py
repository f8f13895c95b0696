"""Checks of notebook 10, paper and released code; those of the two audits of a model are in `nb10_audit`.

Truth: functions whose values are known, rows and checkpoints drawn at random and put together piece by piece.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping

from emrrg_lib.course.checks import array, call, exercise, expect, expect_value, pair, stage, texts, whole
from emrrg_lib.course.checks.nb10_audit import check_2, check_6  # noqa: F401


@exercise(1)
def check_1(adapted: Callable) -> None:
    """`adapted(functions, adapters)` → functions x ↦ functions[i](x) + adapters[i](x)."""
    for count in (3, 1, 5):
        _bound_early(adapted, count)


def _bound_early(adapted: Callable, count: int) -> None:
    log: list[int] = []

    def noted(number: int) -> Callable:
        def function(x: float) -> float:
            log.append(number)
            return (number + 2) * x

        return function

    functions = [noted(i) for i in range(count)]
    adapters = [lambda x, i=i: x * x + 100.0 * (i + 1) for i in range(count)]
    given = list(functions), list(adapters)
    answer = call(adapted, *given)
    listed = isinstance(answer, Iterable) and not isinstance(answer, str | bytes | set | Mapping)
    yours = list(answer) if listed else []
    expect(
        len(yours) == count and all(callable(each) for each in yours),
        f"Return a list of functions, as many as there are: here {count}. Yours is {answer!r:.60}.",
    )
    expect(not log, "functions are called while they are wrapped; they must wait for the new one's call.")
    for mine, old, name in zip(given, (functions, adapters), ("functions", "adapters"), strict=True):
        same = len(mine) == count and all(a is b for a, b in zip(mine, old, strict=True))
        expect(same, f"Your code changes the caller's list `{name}`; make a new list and leave that one.")
    for x in (5.0, -3.0):
        f, a = [(i + 2) * x for i in range(count)], [x * x + 100.0 * (i + 1) for i in range(count)]
        slips = [
            ([f[-1] + a[-1]] * count, "all give the last one's value: still bound late."),
            (
                [v + a[-1] for v in f],
                "the function is bound rightly, but the adapter is the last one for all.",
            ),
            (
                [f[-1] + v for v in a],
                "the adapter is bound rightly, but the function is the last one for all.",
            ),
            (f, "where is the adapter? Yours gives the plain functions."),
            ([(i + 2) * v for i, v in enumerate(a)], "the adapter reads x; yours feeds its answer on."),
            ([v * v + 100.0 * (i + 1) for i, v in enumerate(f)], "the adapter reads x, not functions[i](x)."),
        ]
        values = [call(each, x) for each in reversed(yours)][::-1]
        cause = "it must be functions[i](x) + adapters[i](x)."
        expect_value(values, [v + w for v, w in zip(f, a, strict=True)], cause, slips, f"At {x:g}")


@exercise(3)
def check_3(report_of: Callable) -> None:
    """`report_of(ids, end, pad)` → ids of the report."""
    stages = [  # row, end, pad, report, likely cause
        ([5, 6, 2, 0, 0], 2, 0, [5, 6], "the report, without end symbol and padding"),
        ([5, 0, 6, 2, 0, 0], 2, 0, [5, 0, 6], "here the word 0 is in the report too, and is part of it"),
        ([5, 6, 0, 2, 0], 2, 0, [5, 6, 0], "the report's last word is 0; the end symbol comes after it"),
        ([5, 6, 0], 2, 0, [5, 6, 0], "the row was cut before its end symbol, and its last word is 0"),
        ([5, 6, 2, 2, 2], 2, 2, [5, 6], "here the end symbol is the padding as well"),
        ([5, 6, 2, 7, 2, 0], 2, 0, [5, 6], "what follows the first end symbol does not count"),
        ([2, 0, 0], 2, 0, [], "an empty report has no ids"),
    ]
    rng = random.Random(10)
    for length in (4, 9, 30):  # rows of other lengths, end symbols and paddings
        end, pad = rng.sample(range(50), 2)
        report = [rng.choice([i for i in range(50) if i != end]) for _ in range(length)]
        row = [*report, end, *[pad] * rng.randint(0, 5)]
        stages.append((row, end, pad, report, "the report, without end symbol and padding"))
    for ids, end, pad, report, cause in stages:
        given = list(ids)
        where = f"{ids}, end {end}, pad {pad}"
        answer = call(report_of, given, end, pad)
        answer = list(answer) if isinstance(answer, Iterator) else answer
        numbers = array(answer, cause="return a list of ids")
        expect(numbers.ndim == 1, f"{where}: return a list of ids; yours has the shape {numbers.shape}.")
        yours = [int(number) if number.is_integer() else number for number in numbers.tolist()]
        expect(yours != [*report, end], f"{where}: yours {yours} still has the end symbol {end}.")
        expect(yours == report, f"{where}: yours {yours}, expected {report}: {cause}.")
        expect(given == ids, f"{where}: your code changes the caller's row to {given}; leave it as it is.")


def _checkpoint(width: int, depth: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Names and shapes of an encoder file, its blocks in no order."""
    shapes = {f"{prefix}pos_embed": (1, 197, width), f"{prefix}patch_embed.proj.weight": (width, 3, 16, 16)}
    for block in random.Random(depth).sample(range(depth), depth):
        shapes |= {
            f"{prefix}layers.{block}.mixer.in_proj.weight": (2 * width, width),
            f"{prefix}layers.{block}.norm1.weight": (width,),
        }
    return shapes


def _size(encoder_size: Callable, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    width, depth = pair(call(encoder_size, dict(shapes)), "Return two numbers, (width, depth).")
    return whole(width, "the width"), whole(depth, "the depth")


@exercise(4)
def check_4(encoder_size: Callable) -> None:
    """`encoder_size({name: shape})` → (embed_dim, depth)."""
    cause = "read width and depth off names and shapes."
    slips = {
        (3, 96): "width and depth are exchanged.",
        (96, 2): "depth 2 of 3: blocks count from 0, so the highest number is one less.",
        (96, 6): "depth 6 of 3: yours counts names; each block has several.",
    }
    yours = _size(encoder_size, _checkpoint(96, 3))
    expect_value(yours, (96, 3), cause, slips, "Three blocks of width 96")
    slips = {(768, 10): "depth 10 of 12: as text '9' is above '11'."}
    yours = _size(encoder_size, _checkpoint(768, 12))
    expect_value(yours, (768, 12), cause, slips, "The base encoder")
    with_text = _checkpoint(1024, 24, "visual_encoder.")
    with_text |= {f"text_encoder.encoder.layer.{i}.output.dense.weight": (768, 3072) for i in range(30)}
    slips = {(1024, 30): "depth 30: the text encoder's `layer.29` is not a block of the encoder."}
    yours = _size(encoder_size, with_text)
    expect_value(yours, (1024, 24), cause, slips, "With the prefix 'visual_encoder.'")
    yours = _size(encoder_size, _checkpoint(640, 1, "model.vision."))
    expect_value(yours, (640, 1), cause, where="One block, the prefix 'model.vision.'")


_WHAT = ("missing", "unexpected", "misfits")


@exercise(5)
def check_5(compare: Callable) -> str:
    """`compare(wanted, found, prefix)` → sorted names that are missing, unexpected, of another shape."""
    rng = random.Random(5)
    for prefix in ("", "visual.", "lav."):  # `lstrip("lav.")` eats more than the prefix
        with stage(f"prefix {prefix!r}"):
            for size in (6, 15):
                _compared(compare, prefix, size, rng)
    return "A file that is loaded without these three lists may have loaded nothing."


def _compared(compare: Callable, prefix: str, size: int, rng: random.Random) -> None:
    names = [f"{rng.choice(['layers', 'mixer', 'a'])}.{i}.{rng.choice(['A', 'norm'])}" for i in range(size)]
    wanted = {name: (rng.randint(2, 9), rng.randint(2, 9)) for name in rng.sample(names, size)}
    missing, misfits = names[:2], names[2:4]
    kept = {name: shape for name, shape in wanted.items() if name not in missing}
    kept |= {misfits[0]: wanted[misfits[0]][::-1] + (1,), misfits[1]: (wanted[misfits[1]][0] + 1, 1)}
    unexpected = ["X_adapter.B", "X_adapter.A", *([f"{prefix}{prefix}twice"] if prefix else [])]
    kept |= {name: (4, 4) for name in (n.removeprefix(prefix) for n in unexpected)}
    unexpected = [name.removeprefix(prefix) for name in unexpected]
    found = {prefix + name: shape for name, shape in kept.items()}
    if prefix:
        found |= {
            f"llm.{prefix}a": (1, 1),
            "llm.layers.0.A": (1, 1),
            missing[0]: wanted[missing[0]],
        }  # without it: another part's
    given = dict(wanted), dict(found)
    answer = call(compare, *given, prefix)
    expect(
        isinstance(answer, tuple | list) and len(answer) == 3,
        f"Return three lists: missing, unexpected, misfits. Yours is {answer!r:.60}.",
    )
    expect(given == (wanted, found), "Your code changes the caller's tables; leave them as they are.")
    truth = {"missing": missing, "unexpected": unexpected, "misfits": misfits}
    for yours, what in zip(answer, _WHAT, strict=True):
        _same_names(texts(yours, f"give the {what} names as a sorted list"), what, truth, prefix)


def _same_names(yours: list[str], what: str, truth: Mapping[str, list[str]], prefix: str) -> None:
    expected = sorted(truth[what])
    for other in _WHAT:
        expect(
            what == other or sorted(yours) != sorted(truth[other]), f"As {what} yours gives what is {other}."
        )
    both = sorted(set(yours) & set(truth["misfits"])) if what != "misfits" and not prefix else []
    expect(not both, f"{both} are in both tables, with different shapes: misfits, not {what}.")
    told = f"As {what} yours gives {sorted(yours)}, expected {expected}"
    cause = ": take the prefix off once, at the beginning of a name; names without it do not count"
    if set(truth["missing"]) - set(yours) and what == "missing" and set(yours) <= set(expected):
        cause = ": a name that is in the file without the prefix belongs to another part"
    if what == "missing" and set(truth["misfits"]) <= set(yours):
        cause = ": take the prefix off the file's names first"
    expect(sorted(yours) == expected, f"{told}{cause if prefix else ''}.")
    expect(yours == expected, f"As {what} yours gives the right names, but not sorted: {yours}.")
