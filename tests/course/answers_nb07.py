"""Wrong answers to the exercises of notebook 07: (exercise, code, words of the message)."""

import numpy as np

SCOPE = {"np": np}
SHARE = (
    "def answer(trace, word, layer):\n    w = trace.words()[word]\n"
    "    weights = trace.attention[layer, :, w.start:w.stop]\n    return "
)
WIDEST = (
    "def answer(trace, layer, k):\n    gate = trace.gate[layer]\n    opening = lambda w: {opening}\n"
    "    return {result}"
)
RIGHT = {
    "opening": "np.abs(gate[w.start:w.stop]).max()",
    "result": "[w.text for w in sorted(trace.words(), key=opening, reverse=True)[:k]]",
}
LAYERS = (
    "def answer(regenerate, layer_ids):\n    own = regenerate({})\n"
    "    read = lambda scales: regenerate(scales).text\n    return "
)
GAIN = (
    "def answer(weights, mask):\n    (r, c), (h, w) = weights.shape, mask.shape\n"
    "    covered = mask.reshape(r, h // r, c, w // c){pool}\n    return {result}"
)
GOOD = {"pool": ".mean(axis=(1, 3))", "result": "(weights * covered).sum() / weights.sum() / covered.mean()"}
WRONG = [
    (
        1,
        "def answer(trace, word, layer):\n    w = trace.words()[word]\n"
        "    return trace.attention[layer, :, w.start].sum(axis=2).mean(axis=0)",
        "the first token alone",
    ),
    (1, SHARE + "weights[0].sum(axis=2).mean(axis=0)", "head 0 alone"),
    (
        1,
        SHARE + "weights.mean(axis=(0, 1)).sum(axis=1) / weights.mean(axis=(0, 1)).sum()",
        "you scaled the views",
    ),
    (1, SHARE + "weights.sum(axis=3).sum(axis=1).mean(axis=0)", "you summed over the tokens"),
    (1, SHARE + "weights.mean(axis=(0, 1, 3))", "the mean over the patches"),
    (1, SHARE + "weights.mean(axis=(0, 1))", "one number a view"),
    (1, SHARE + "weights.sum(axis=3).max(axis=(0, 1))", "frontal (.8 + .4"),
    (2, WIDEST.format(**RIGHT | {"opening": "gate[w.start:w.stop].max()"}), "negative gates are open too"),
    (2, WIDEST.format(**RIGHT | {"opening": "np.abs(gate[w.start:w.stop]).mean()"}), "you averaged"),
    (
        2,
        WIDEST.format(**RIGHT | {"result": "[w.text for w in sorted(trace.words(), key=opening)[:k]]"}),
        "these are the narrowest",
    ),
    (2, WIDEST.format(**RIGHT | {"result": "[sorted(trace.words(), key=opening)[-1].text]"}), "k words"),
    (
        2,
        WIDEST.format(**RIGHT | {"result": "[trace.tokens[i].strip() for i in np.argsort(-abs(gate))[:k]]"}),
        "those are tokens",
    ),
    (
        2,
        WIDEST.format(**RIGHT | {"result": "np.argsort([-opening(w) for w in trace.words()])[:k]"}),
        "a list of words as text",
    ),
    (2, WIDEST.format(**RIGHT).replace("trace.gate[layer]", "trace.gate[-1]"), "right in layer 1"),
    (3, "def answer(regenerate, layer_ids):\n    return list(layer_ids)", "regenerate was never called"),
    (3, LAYERS + "[n for n in layer_ids if read({n: 1.0}) != own.text]", "no gate was ever closed"),
    (
        3,
        LAYERS + "[n for n in layer_ids if read({m: 0.0 for m in layer_ids if m != n}) != own.text]",
        "one at a time",
    ),
    (3, LAYERS + "[n for n in layer_ids if regenerate({n: 0.0}) != own]", "compare trace.text"),
    (3, LAYERS + "[i for i, n in enumerate(layer_ids) if read({n: 0.0}) != own.text]", "these are positions"),
    (3, LAYERS + "[n for n in layer_ids if read({n: 0.0}) == own.text]", "do not matter"),
    (3, LAYERS + "[n for n in layer_ids if read({n: 0.0}) != own.text][:1]", "is each closed alone"),
    (4, GAIN.format(**GOOD | {"result": "(weights * covered).sum() / weights.sum()"}), "the share alone"),
    (
        4,
        GAIN.format(**GOOD | {"result": "(weights * covered).sum() / covered.mean()"}),
        "divide by their sum",
    ),
    (4, GAIN.format(**GOOD | {"result": "(weights * covered).sum()"}), "not yet a gain"),
    (4, GAIN.format(**GOOD).replace("(weights * covered)", "(weights.T * covered)"), "row 0 on top"),
    (4, GAIN.format(**GOOD | {"pool": ".any(axis=(1, 3))"}), "counts by the part"),
    (
        4,
        GAIN.format(**GOOD | {"result": "weights.max() / weights.sum() * weights.size"}),
        "yours 3, expected 1.66667",
    ),
]
