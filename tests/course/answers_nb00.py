"""Answers to the exercises of notebook 00: wrong (exercise, code, words of the message) and right ones."""

from types import SimpleNamespace

import numpy as np
import torch

from emrrg_lib.language.hybrid_decoder import gates_scaled, hybrid_modules
from emrrg_lib.presets import preset


class Gate(torch.nn.Module):
    gate_scale = 1.0

    def forward(self):
        return self.gate_scale


def toy_model():
    """Two hybrid layers and reports that follow their gates: what exercise 2 works with, without weights."""
    attention = [SimpleNamespace(cross_attention=Gate(), o_proj=None) for _ in range(2)]
    llm = SimpleNamespace(layers=[SimpleNamespace(self_attn=a, input_layernorm=None) for a in attention])

    def generate(pixels, mask):
        scales = [a.cross_attention() for a in attention]
        return ["no finding ." if not any(scales) else f"an effusion , seen with {scales} ."]

    return SimpleNamespace(llm=llm, generate=generate)


model = toy_model()
layers = hybrid_modules(model.llm)
SCOPE = {
    "np": np,
    "torch": torch,
    "settings": preset("tiny"),
    "visual_states": torch.zeros(1, 290, 128),
    "model": model,
    "pixels": None,
    "mask": None,
    "layers": layers,
    "gates_scaled": gates_scaled,
    "blind": "no finding .",
    "report": model.generate(None, None)[0],
}
WRITE = "def answer(scale):\n    "
SCALED = WRITE + "with gates_scaled(model.llm, dict.fromkeys(layers, scale)):\n        return "
F1 = (
    "def answer(a, b):\n    a, b = ({{n for n, v in x.items() if {present}}} for x in (a, b))\n"
    "    return 2 * len(a & b) / {total}"
)
RIGHT = {"present": "v in (1, -1) and n != 'No Finding'", "total": "max(1, len(a) + len(b))"}
CONSTANT = """
def answer(train, validation, test, score):
    def mean(report, references):
        return sum(score(ref, report) for ref in references) / len(references)
    best = {best}
    return {end}
"""
CHOSEN = {"best": "max(train, key=lambda r: mean(r, validation))", "end": "best, mean(best, test)"}
WRONG = [
    (1, "answer = 2 * 144", "is there no cls token"),
    (1, "answer = 2 * 144 + 1", "each view has its own cls token"),
    (1, "answer = 145", "one view; the study has two"),
    (1, "answer = 144", "without its cls token"),
    (1, "answer = 12 * 12 * 3", "count patches, cls token, views"),
    (2, WRITE + "return model.generate(pixels, mask)[0]", "does your scale reach the layers"),
    (2, SCALED + "model.generate(pixels, mask)", "not a text"),
    (
        2,
        WRITE + "for module in layers.values():\n        module.gate_scale = scale * 0.5\n"
        "    return model.generate(pixels, mask)[0]",
        "the gates stay at 0.5",
    ),
    (
        2,
        WRITE + "with gates_scaled(model.llm, {1: scale}):\n        return model.generate(pixels, mask)[0]",
        "are all gates closed",
    ),
    (
        2,
        SCALED.replace("layers, scale", "layers, scale * 0.1") + "model.generate(pixels, mask)[0]",
        "same study, same settings",
    ),
    (3, "def answer(a, b):\n    return sum(a[n] == b[n] for n in a) / 14", "one shared, one missed"),
    (3, F1.format(**RIGHT | {"total": "max(1, 2 * len(b))"}), "1 of 3 found, nothing invented"),
    (3, F1.format(**RIGHT | {"present": "v == 1 and n != 'No Finding'"}), "uncertain counts"),
    (3, F1.format(**RIGHT | {"present": "v is not None and n != 'No Finding'"}), "denied findings"),
    (3, F1.format(**RIGHT | {"present": "v in (1, -1)"}), "'No Finding' is left out"),
    (3, F1.format(**RIGHT | {"total": "(len(a) + len(b))"}), "divides by zero"),
    (3, "def answer(a, b):\n    return a['edema']", "raised KeyError"),
    (3, F1.format(**RIGHT).replace("return 2 *", "return"), "one finding, named by both"),
    (
        3,
        "def answer(a, b):\n    a.pop('No Finding'), b.pop('No Finding')\n"
        + F1.format(**RIGHT).split("\n", 1)[1],
        "changes its arguments",
    ),
    (4, CONSTANT.format(**CHOSEN | {"best": "max(set(train), key=train.count)"}), "or the commonest report"),
    (
        4,
        CONSTANT.format(
            **CHOSEN | {"best": "max(train, key=lambda r: max(score(v, r) for v in validation))"}
        ),
        "one lucky reference",
    ),
    (4, CONSTANT.format(**CHOSEN | {"end": "best, mean(best, validation)"}), "its validation score"),
    (4, CONSTANT.format(**CHOSEN | {"end": "best"}), "Return two"),
    (4, CONSTANT.format(**CHOSEN).replace("score(ref, report)", "score(report, ref)"), "exchanges the two"),
    (
        4,
        CONSTANT.format(**CHOSEN | {"best": "max(validation, key=lambda r: mean(r, validation))"}),
        "Only training",
    ),
    (4, CONSTANT.format(**CHOSEN | {"end": "best, mean(best, test) * len(test)"}), "not the sum"),
    (4, "def answer(train, validation, test, score):\n    return 'best', -4.0", "of the first case"),
    (2, WRITE + "return blind if scale == 0 else report", "Scale 0.25"),
    (
        4,
        CONSTANT.format(
            **CHOSEN | {"best": "max(train, key=lambda r: (mean(r, validation), mean(r, test)))"}
        ),
        "scored on test, too",
    ),
    (3, "def answer(a, b):\n    print(len(a), len(b))", "to print is not enough"),
]

ALSO_RIGHT = [
    (1, "answer = np.int64(290)"),
    (1, "answer = torch.tensor(290)"),
    (
        2,
        WRITE + "for layer in layers.values():\n        layer.gate_scale = scale\n"
        "    text = model.generate(pixels, mask)[0]\n    for layer in layers.values():\n"
        "        layer.gate_scale = 1.0\n    return text",
    ),
    (
        2,
        WRITE + "with gates_scaled(model.llm, {layer: scale for layer in layers}):\n"
        "        (text,) = model.generate(pixels, mask)\n    return text",
    ),
    (3, F1.format(**RIGHT)),
    (
        3,
        "def answer(a, b):\n    names = [n for n in a if n != 'No Finding']\n"
        "    x, y = (np.array([d[n] in (1, -1) for n in names]) for d in (a, b))\n"
        "    return float(2 * (x & y).sum() / max(1, x.sum() + y.sum()))",
    ),
    (4, CONSTANT.format(**CHOSEN)),
    (
        4,
        "def answer(train, validation, test, score):\n"
        "    table = np.array([[score(v, r) for v in validation] for r in train])\n"
        "    best = train[table.mean(1).argmax()]\n"
        "    return [best, np.mean([score(t, best) for t in test])]",
    ),
    (3, "from fractions import Fraction\n" + F1.format(**RIGHT).replace("return 2", "return Fraction(2)")),
]
