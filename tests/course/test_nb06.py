"""Checks of notebook 06: solutions pass, stubs are reported, plausible mistakes are named."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from emrrg_lib.course.checks import nb06

ROOT = Path(__file__).resolve().parents[2]
TWIN = ROOT / "notebooks" / "06_metrics.py"
TEXT = TWIN.read_text(encoding="utf-8")
NAMES = {1: "fooling", 2: "three_f1", 3: "difference_interval", 4: "studies_needed"}
PATIENT = "".join(re.findall(r'"(.*?)"', re.search(r"patient = \((.*?)\)\n", TEXT, re.DOTALL).group(1)))
F1 = """
def answer(true, said):
    def f1(axis):
        both, total = (true & said).sum(axis), true.sum(axis) + said.sum(axis)
        with np.errstate(invalid="ignore"):
            return {mean}(2 * both / {total})
    return {result}
"""
RIGHT = {"mean": "np.mean", "total": "np.maximum(total, 1)", "result": "f1(None), f1(0), f1(1)"}
GAP = """
def answer(hits_a, words_a, hits_b, words_b, draws):
    a, b = draws @ hits_a / (draws @ words_a), draws @ hits_b / (draws @ words_b)
    return """
NEEDED = "def answer(N, width, effect):\n    return "
WRONG = [
    (1, f"answer = {PATIENT!r}", "as the reference does"),
    (1, f"answer = {PATIENT.replace('pneumothorax on', 'clear on')!r}", "invents none"),
    (1, "answer = 'there is a rib fracture .'", "keep more of the"),
    (1, "answer = ['a rib fracture']", "not a text"),
    (2, F1.format(**RIGHT | {"total": "total"}), "There is a NaN"),
    (2, F1.format(**RIGHT | {"mean": "np.nanmean", "total": "total"}), "leaves out the observation"),
    (2, F1.format(**RIGHT | {"result": "f1(None), f1(1), f1(0)"}), "are exchanged"),
    (2, F1.format(**RIGHT | {"result": "np.mean(true == said), f1(0), f1(1)"}), "that is accuracy"),
    (2, F1.format(**RIGHT | {"result": "f1(None), f1(None), f1(1)"}), "F1 of the observations"),
    (2, F1.format(**RIGHT | {"result": "f1(0)"}), "expected (micro, macro, example)"),
    (3, GAP + "np.percentile(b - a, [2.5, 97.5])", "The sign is turned"),
    (3, GAP + "np.percentile((draws @ (hits_a / words_a) - draws @ (hits_b / words_b)) / draws.sum(1),"
     " [2.5, 97.5])", "mean of the studies' precisions"),
    (3, GAP + "np.percentile(a - np.roll(b, 1), [2.5, 97.5])", "drawn independently"),
    (3, GAP + "np.percentile(a - b, [5, 95])", "the middle 90 %"),
    (3, GAP + "np.array([(a - b).min(), (a - b).max()])", "smallest to the largest"),
    (3, GAP + "np.percentile(a - b, 97.5)", "expected (low, high)"),
    (4, NEEDED + "math.ceil(N * width / 3.92 / (effect / 2.8))", "root of N"),
    (4, NEEDED + "math.ceil(N * (width / 1.96 / (effect / 2.8)) ** 2)", "from end to end"),
    (4, NEEDED + "math.ceil(N * (width / 3.92 / (effect / 1.96)) ** 2)", "a power of one half"),
    (4, NEEDED + "round(N * (width / 3.92 / (effect / 2.8)) ** 2)", "so round up"),
    (4, NEEDED + "math.ceil(N * (effect / 2.8 / (width / 3.92)) ** 2)", "the ratio is turned"),
    (4, NEEDED + "math.ceil((width / 3.92 / (effect / 2.8)) ** 2)", "multiply by the N"),
]


def verdict(number, code, name="answer"):
    scope = {"np": np, "math": math, "patient": PATIENT}
    exec(code, scope)
    given = (PATIENT,) if number == 1 else ()
    return getattr(nb06, f"check_{number}").verdict(scope[name], *given)


@pytest.mark.parametrize("number", NAMES)
def test_the_solution_passes_and_the_stub_is_not_tried(number):
    text = re.sub(r"^# ?", "", TEXT, flags=re.MULTILINE)
    solution = re.search(rf"Solution {number}</summary>\s*```python\n(.*?)```", text, re.DOTALL).group(1)
    solution = solution.split("\n\n\n")[0]  # what follows only prints
    assert verdict(number, solution, NAMES[number]).startswith("right")
    stub = "answer = None" if number == 1 else "def answer(*given):\n    return None"
    assert verdict(number, stub) == "not tried yet"


@pytest.mark.parametrize("number, code, cause", WRONG)
def test_every_mistake_is_named(number, code, cause):
    assert cause in verdict(number, code)


def test_each_mistake_has_its_own_words():
    said = [verdict(number, code) for number, code, _ in WRONG]
    assert len(set(said)) == len(said) and all(text.startswith("not yet.") for text in said)


def test_the_quoted_controls_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, quoted in re.findall(r'"((?:constant|most|random)[\w ]+)": \[(\.[\d., ]+)\]', TEXT):
        lines = re.findall(rf"^\| {name} \|(.*)$", readme, re.MULTILINE)
        assert quoted.split(", ") in [re.findall(r"(\.\d{3}) \[", line) for line in lines]
