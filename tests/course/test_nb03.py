"""Checks of notebook 03: solutions pass, stubs are reported, plausible mistakes are named."""

import functools
import re
from pathlib import Path

import pytest
import torch

from emrrg_lib.config import EncoderConfig
from emrrg_lib.course.checks import nb03
from emrrg_lib.vision.encoder import VisionMamba

TWIN = Path(__file__).resolve().parents[2] / "notebooks" / "03_partial_lora.py"
COUNT = """
def answer(target, d, depth, r):
    R, N = {R}, 16
    rows = {{"X": {X}, "Z": d, "in_proj": 2 * d, "out_proj": d, "dt": R, "B": N, "C": N,
             "x_proj": R + 2 * N, "dt_proj": d}}[target]
    inputs = R if target == "dt_proj" else d
    copies = {copies} if target in ("dt", "B", "C", "x_proj", "dt_proj") else 1
    return {result}
"""
RIGHT = {"R": "-(-d // 16)", "X": "d", "copies": "4", "result": "depth * copies * r * (inputs + rows)"}
ROWS = "def answer(x, W, A, B, start, scale):\n    "
BLOCK = "y = x @ W.T\n    y[:, start:start + len(B)] += "
PAIR = "def answer(target, r):\n    U, s, Vh = torch.linalg.svd(target, full_matrices=False)\n    return "
WRONG = [
    (1, COUNT.format(**RIGHT | {"X": "2 * d"}), "that is LoRA(in_proj)"),
    (1, COUNT.format(**RIGHT | {"result": "copies * r * (inputs + rows)"}), "that is one block"),
    (1, COUNT.format(**RIGHT | {"result": "depth * copies * inputs * rows"}), "the X block itself"),
    (1, COUNT.format(**RIGHT | {"copies": "1"}), "that is one direction"),
    (1, COUNT.format(**RIGHT | {"R": "d // 16"}), "rounded up"),
    (1, COUNT.format(**RIGHT | {"result": "12 * copies * 32 * (inputs + rows)"}), "written into your code"),
    (2, ROWS + "y = x @ W.T\n    y[:, :len(B)] += scale * x @ A.T @ B.T\n    return y",
     "stands in rows 0 to 2"),
    (2, ROWS + BLOCK + "x @ A.T @ B.T\n    return y", "`scale`, 0.5 in this check, is missing"),
    (2, ROWS + "W[start:start + len(B)] += scale * B @ A\n    return x @ W.T", "changes W itself"),
    (2, ROWS + BLOCK + "scale * x @ A.T @ B.T\n    return y.T", "one row a token"),
    (2, ROWS + "y = x @ W.T\n    return y + scale * (x @ A.T @ B.T).mean(1, keepdim=True)",
     "outside of the block"),
    (2, ROWS + BLOCK + "scale * (x @ A.T) @ torch.ones(2, len(B)).double()\n    return y",
     "with B = 0 it has to be"),
    (3, PAIR + "Vh[:r], U[:, :r] * s[:r]", "Did you return A first"),
    (3, PAIR + "U[:, :r], Vh[:r]", "Both singular values"),
    (3, PAIR + "U[:, :r] * s[:r], s[:r, None] * Vh[:r]", "are squared"),
    (3, PAIR + "U[:, -r:] * s[-r:], Vh[-r:]", "the smallest singular values"),
    (3, PAIR + "U[:, :r] * s[:r], Vh.T[:r]", "the distance to the target"),
    (3, PAIR + "U[:, :2] * s[:2], Vh[:2]", "Is 2 written into your code"),
    (4, "answer = 84_262_656", "the whole encoder"),
    (4, "answer = 84_110_592", "never calls them"),
    (4, "answer = 57_461_760", "pos_embed is still in it"),
    (4, "answer = 57.31", "a whole number"),
]
NAMES = {1: "count", 2: "partial_lora", 3: "best_pair", 4: "seen"}


@functools.cache
def released():
    with torch.device("meta"):
        return VisionMamba(EncoderConfig(image_size=224))


def verdict(number, code, name="answer"):
    scope = {"torch": torch, "released": released()}
    exec(code, scope)
    return getattr(nb03, f"check_{number}").verdict(scope[name])


@pytest.mark.parametrize("number", NAMES)
def test_the_solution_passes_and_the_stub_is_not_tried(number):
    text = re.sub(r"^# ?", "", TWIN.read_text(encoding="utf-8"), flags=re.MULTILINE)
    solution = re.search(rf"Solution {number}</summary>\s*```python\n(.*?)```", text, re.DOTALL).group(1)
    solution = solution.split("\n\n\n")[0]  # what follows only prints
    assert verdict(number, solution, NAMES[number]).startswith("right")
    stub = "answer = None" if number == 4 else "def answer(*given):\n    return None"
    assert verdict(number, stub) == "not tried yet"


@pytest.mark.parametrize("number, code, cause", WRONG)
def test_every_mistake_is_named(number, code, cause):
    assert cause in verdict(number, code)


def test_each_mistake_has_its_own_words():
    said = [verdict(number, code) for number, code, _ in WRONG]
    assert len(set(said)) == len(said) and all(text.startswith("not yet.") for text in said)
