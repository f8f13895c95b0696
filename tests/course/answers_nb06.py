"""Wrong answers to the exercises of notebook 06: (exercise, code, words of the message)."""

import math
import re
from pathlib import Path

import numpy as np

TEXT = (Path(__file__).resolve().parents[2] / "notebooks" / "06_metrics.py").read_text(encoding="utf-8")
PATIENT = "".join(re.findall(r'"(.*?)"', re.search(r"patient = \((.*?)\)\n", TEXT, re.DOTALL).group(1)))
SCOPE = {"math": math, "np": np, "patient": PATIENT}
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
    (
        3,
        GAP + "np.percentile((draws @ (hits_a / words_a) - draws @ (hits_b / words_b)) / draws.sum(1),"
        " [2.5, 97.5])",
        "mean of the studies' precisions",
    ),
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
