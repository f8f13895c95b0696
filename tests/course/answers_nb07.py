"""Answers to the exercises of notebook 07: (exercise, code), wrong ones with words of the message."""

import numpy as np
import torch

SCOPE = {"np": np, "torch": torch}
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
HELD = """
def answer(delta, A, B, x):
    parts, sizes = np.zeros((len(x), *A.shape)), np.zeros((len(x), len(x)))
    for t in range(len(x)):
        {decay}
        parts[t] = {write}
        sizes[t] = {size}
    return {result}
"""
GOOD_HELD = {
    "decay": "parts *= np.exp(delta[t][:, None] * A)",
    "write": "(delta[t] * x[t])[:, None] * B[t]",
    "size": "np.sqrt((parts**2).mean(axis=(1, 2)))",
    "result": "sizes",
}
ALSO_RIGHT = [
    (1, SHARE + "torch.tensor(weights.sum(axis=3).mean(axis=1).mean(axis=0))"),
    (
        1,
        "def answer(trace, word, layer):\n    w = trace.words()[word]\n    total = [0.0] * trace.views\n"
        "    for head in range(trace.heads):\n        for token in range(w.start, w.stop):\n"
        "            for view in range(trace.views):\n"
        "                total[view] += trace.attention[layer, head, token, view].sum()\n"
        "    return [x / trace.heads / (w.stop - w.start) for x in total]",
    ),
    (1, "def answer(trace, word, layer):\n    return trace.word_attention(word, layer).sum((1, 2))"),
    (2, WIDEST.format(**RIGHT | {"opening": "max(abs(g) for g in gate[w.start:w.stop])"})),
    (2, WIDEST.format(**RIGHT | {"result": "tuple(" + RIGHT["result"][1:-5] + ")[:k]"})),
    (2, WIDEST.format(**RIGHT | {"result": f"np.array({RIGHT['result']})"})),
    (3, LAYERS + "tuple(n for n in layer_ids if read({n: 0.0}) != own.text)"),
    (3, LAYERS + "np.array([n for n in layer_ids if read({n: 0}) != own.text], dtype=int)"),
    (4, GAIN.format(**GOOD | {"result": "float((weights * covered).sum() / (weights.sum() * mask.mean()))"})),
    (
        4,
        "def answer(weights, mask):\n"
        "    p = np.kron(weights, np.ones((len(mask) // len(weights), mask.shape[1] // weights.shape[1])))\n"
        "    return (p * mask).sum() / p.sum() * mask.size / mask.sum()",
    ),
    (5, HELD.format(**GOOD_HELD | {"result": "torch.tensor(sizes, dtype=torch.float32)"})),
    (
        5,
        "def answer(delta, A, B, x):\n    L = len(x)\n    past = np.cumsum(delta, axis=0)\n"
        "    out = np.zeros((L, L))\n    for t in range(L):\n        for s in range(t + 1):\n"
        "            kept = np.exp((past[t] - past[s])[:, None] * A)\n"
        "            out[t, s] = np.sqrt(np.mean((kept * (delta[s] * x[s])[:, None] * B[s]) ** 2))\n"
        "    return out.tolist()",
    ),
]
WRONG = [
    (
        1,
        "def answer(trace, word, layer):\n    w = trace.words()[word]\n"
        "    return trace.attention[layer, :, w.start].sum(axis=2).mean(axis=0)",
        "the first token alone",
    ),
    (1, SHARE + "weights[0].sum(axis=2).mean(axis=0)", "head 0 alone"),
    (1, SHARE + "weights[:2].sum(axis=3).mean(axis=(0, 1))", "but there are three"),
    (1, SHARE + "weights.sum(axis=3).mean(axis=1).sum(axis=0) / 2", "however many there are"),
    (
        1,
        SHARE + "weights.mean(axis=(0, 1)).sum(axis=1) / weights.mean(axis=(0, 1)).sum()",
        "you scaled the views",
    ),
    (1, SHARE + "weights.sum(axis=3).sum(axis=1).mean(axis=0)", "you summed over the tokens"),
    (1, SHARE + "weights.mean(axis=(0, 1, 3))", "the mean over the patches"),
    (1, SHARE + "weights.mean(axis=(0, 1))", "one number for each view"),
    (1, SHARE + "weights.sum(axis=3).max(axis=(0, 1))", "frontal (.8 + .4"),
    (
        1,
        SHARE.replace("[layer, :", "[-1, :") + "weights.sum(axis=3).mean(axis=(0, 1))",
        "the layer and the word",
    ),
    (2, WIDEST.format(**RIGHT | {"opening": "gate[w.start:w.stop].max()"}), "negative gates are open too"),
    (2, WIDEST.format(**RIGHT | {"opening": "np.abs(gate[w.start:w.stop]).mean()"}), "you averaged"),
    (2, WIDEST.format(**RIGHT | {"opening": "np.abs(gate[w.start:w.stop]).sum()"}), "you add the tokens"),
    (
        2,
        WIDEST.format(**RIGHT | {"result": "[w.text for w in sorted(trace.words(), key=opening)[:k]]"}),
        "these are the narrowest",
    ),
    (
        2,
        WIDEST.format(
            **RIGHT | {"result": "[w.text for w in sorted(trace.words(), key=opening, reverse=True)[:k - 1]]"}
        ),
        "k words",
    ),
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
    (2, WIDEST.format(**RIGHT).replace("trace.gate[layer]", "trace.gate[-1]"), "Layer 0, k = 1"),
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
    (3, LAYERS + "[n for n in layer_ids if len(read({n: 0.0})) != len(own.text)]", "not in their length"),
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
    (5, HELD.format(**GOOD_HELD | {"write": "x[t][:, None] * B[t]"}), "Δ is missing"),
    (5, HELD.format(**GOOD_HELD | {"decay": "pass"}), "nothing decays"),
    (5, HELD.format(**GOOD_HELD | {"result": "sizes.T"}), "0 above"),
    (
        5,
        HELD.format(**GOOD_HELD | {"decay": "parts *= np.exp(delta[max(0, t - 1)][:, None] * A)"}),
        "its own Δ",
    ),
    (5, HELD.format(**GOOD_HELD | {"size": "np.sqrt((parts**2).sum(axis=(1, 2)))"}), "mean of the squares"),
    (5, HELD.format(**GOOD_HELD | {"size": "np.abs(parts).mean(axis=(1, 2))"}), "square, mean over"),
    (5, HELD.format(**GOOD_HELD | {"size": "parts.mean(axis=(1, 2))"}), "4 tokens, 3 channels"),
    (5, HELD.format(**GOOD_HELD | {"result": "sizes[-1]"}), "one row for each step"),
    (
        3,
        "def answer(regenerate, layer_ids):\n    own = regenerate({}).text\n"
        "    return sum(regenerate({i: 0.0}).text != own for i in layer_ids)",
        "A list of layers is expected",
    ),
]
