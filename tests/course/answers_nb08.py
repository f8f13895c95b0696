"""Answers to the exercises of notebook 08: (exercise, code), wrong ones with words of the message."""

import math

import numpy as np
import torch
import torch.nn.functional as F

SCOPE = {"math": math, "np": np, "torch": torch, "F": F}
PLACE = """
def answer(row, column, side, edge):
    cluster = {cluster}
    return cluster * {size} + {inside}
"""
RIGHT = {
    "cluster": "row // edge * (side // edge) + column // edge",
    "size": "edge**2",
    "inside": "row % edge * edge + column % edge",
}
LOSS = """
def answer(images, reports, scale):
    images, reports = {normed}
    logits = {logits}
    target = torch.arange(len(logits))
    return {result}
"""
PAIR = {
    "normed": "F.normalize(images, dim=1), F.normalize(reports, dim=1)",
    "logits": "scale * images @ reports.T",
    "result": "(F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2",
}
FLOOR = "def answer(texts):\n    return "
NEW = """
def answer(name):
    parts = name.split(".")
    if {others}:
        return [name]
    names = []
    for ending in ("", "_b", "_c", "_c_b"):
        new = {a_log} if parts[3] == "A_log" else parts[3] + ending
        names.append({joined})
    return names
"""
COPY = {
    "others": 'parts[2:3] != ["mixer"] or parts[3] not in ("A_log", "D", "conv1d", "x_proj", "dt_proj")',
    "a_log": 'f"A{ending}_log"',
    "joined": '".".join([*parts[:3], new, *parts[4:]])',
}
TARGETS = """
def answer(images, patch):
    B, _, H, W = images.shape
    cut = images.reshape(B, 3, H // patch, patch, W // patch, patch)
    pixels = cut.permute({order}).reshape(B, -1, 3 * patch * patch)
    mean, variance = pixels.mean(dim={axis}, keepdim=True), pixels.var({var})
    return {result}
"""
GOOD = {
    "order": "0, 2, 4, 3, 5, 1",
    "axis": "2",
    "var": "dim=2, keepdim=True",
    "result": "(pixels - mean) / (variance + 1e-6).sqrt()",
}
FAIR = """
def answer(images, reports, scale, texts):
    logits = scale * F.normalize(images, dim=1) @ F.normalize(reports, dim=1).T
    alike = torch.tensor([[float({equal}) for b in texts] for a in texts])
    share = {share}
    return {result}
"""
GOOD_FAIR = {
    "equal": "a == b",
    "share": "alike / alike.sum(dim=1, keepdim=True)",
    "result": "(F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share)) / 2",
}
ALSO_RIGHT = [
    (1, PLACE.format(**RIGHT | {"cluster": "int(row / edge) * int(side / edge) + int(column / edge)"})),
    (1, PLACE.format(**RIGHT | {"inside": "np.int64(row % edge * edge + column % edge)"})),
    (
        1,
        "def answer(row, column, side, edge):\n"
        "    n = side // edge\n"
        "    g = torch.arange(side**2).view(n, edge, n, edge).transpose(1, 2).flatten()\n"
        "    return (g == row * side + column).nonzero().flatten()",
    ),
    (2, TARGETS.format(**GOOD | {"result": "((pixels - mean) / (variance + 1e-6) ** 0.5).float().numpy()"})),
    (
        2,
        "def answer(images, patch):\n    out = []\n    for image in images:\n        rows = []\n"
        "        for r in range(0, image.shape[1], patch):\n"
        "            for c in range(0, image.shape[2], patch):\n"
        "                v = image[:, r:r + patch, c:c + patch].permute(1, 2, 0).flatten()\n"
        "                rows.append((v - v.mean()) / torch.sqrt(v.var() + 1e-6))\n"
        "        out.append(torch.stack(rows))\n    return torch.stack(out)",
    ),
    (3, LOSS.format(**PAIR | {"result": "float(" + PAIR["result"] + ")"})),
    (
        3,
        LOSS.format(
            **PAIR
            | {"result": "(logits.logsumexp(0) + logits.logsumexp(1) - 2 * logits.diagonal()).mean() / 2"}
        ),
    ),
    (4, FLOOR + "np.mean([np.log(texts.count(t)) for t in texts])"),
    (4, FLOOR + "sum(n * math.log(n) for n in {t: texts.count(t) for t in texts}.values()) / len(texts)"),
    (5, NEW.format(**COPY).replace("return names", "return tuple(names)")),
    (5, NEW.format(**COPY).replace("return names", "return np.array(names)")),
    (6, FAIR.format(**GOOD_FAIR | {"result": "float(" + GOOD_FAIR["result"] + ")"})),
    (6, FAIR.format(**GOOD_FAIR | {"share": "alike / alike.sum(dim=1)"})),  # equal texts, equal sums
    (
        6,
        FAIR.format(
            **GOOD_FAIR
            | {"result": "-(share * (logits.log_softmax(1) + logits.log_softmax(0))).sum() / 2 / len(texts)"}
        ),
    ),
]
WRONG = [
    (1, PLACE.format(**RIGHT | {"cluster": "0", "inside": "row * side + column"}), "begins at 4"),
    (1, PLACE.format(**RIGHT | {"inside": "column % edge * edge + row % edge"}), "count line by line"),
    (
        1,
        PLACE.format(**RIGHT | {"cluster": "column // edge * (side // edge) + row // edge"}),
        "count the clusters line by line",
    ),
    (1, PLACE.format(**RIGHT | {"cluster": "row // edge * edge + column // edge"}), "clusters line by line"),
    (1, PLACE.format(**RIGHT | {"size": "edge**3"}), "the first cluster has 4 patches"),
    (1, PLACE.format(**RIGHT | {"inside": "row % edge * side + column % edge"}), "not at a line of the grid"),
    (1, "def answer(row, column, side, edge):\n    return row / edge", "divide by //"),
    (3, LOSS.format(**PAIR | {"result": "F.cross_entropy(logits, target)"}), "Only the rows"),
    (3, LOSS.format(**PAIR | {"result": "F.cross_entropy(logits.T, target)"}), "Only the columns"),
    (3, LOSS.format(**PAIR | {"result": PAIR["result"].removesuffix(" / 2")}), "take their mean"),
    (3, LOSS.format(**PAIR | {"logits": "images @ reports.T"}), "The scale is not used"),
    (3, LOSS.format(**PAIR | {"logits": "images @ reports.T / scale"}), "You divide by the scale"),
    (3, LOSS.format(**PAIR | {"logits": "math.exp(scale) * images @ reports.T"}), "You take exp(scale)"),
    (3, LOSS.format(**PAIR | {"normed": "images, reports"}), "normalise both"),
    (3, LOSS.format(**PAIR | {"result": "logits"}), "the mean over the batch"),
    (4, FLOOR + "0.0", "nothing better than a draw"),
    (4, FLOOR + "math.log(len(texts))", "a model pays that knows nothing"),
    (4, FLOOR + "sum(math.log(texts.count(t)) for t in texts)", "divide the sum"),
    (
        4,
        FLOOR + "sum(math.log(texts.count(t)) for t in set(texts)) / len(set(texts))",
        "not each different text",
    ),
    (4, FLOOR + "sum(math.log2(texts.count(t)) for t in texts) / len(texts)", "not base 2"),
    (5, NEW.format(**COPY | {"a_log": "parts[3] + ending"}), "comes after the A"),
    (5, NEW.format(**COPY | {"others": 'parts[2:3] != ["mixer"]'}), "all directions share in_proj"),
    (
        5,
        NEW.format(
            **COPY | {"joined": '".".join([*parts[:3], new]) if parts[3] == "A_log" else name + ending'}
        ),
        "belongs to the module",
    ),
    (5, NEW.format(**COPY | {"others": COPY["others"].replace('"D", ', "")}), "look at the list of five"),
    (
        5,
        """
def answer(name):
    for part in ("A", "D", "conv1d", "x_proj", "dt_proj"):
        if part in name:
            return [name.replace(part, part + ending) for ending in ("", "_b", "_c", "_c_b")]
    return [name]
""",
        "Compare whole parts, not letters",
    ),
    (5, "def answer(name):\n    return name", "a list of names is expected"),
    (5, "def answer(name):\n    return [name]", "a name for each of four directions"),
    (2, TARGETS.format(**GOOD | {"var": "dim=2, keepdim=True, unbiased=False"}), "divides by n − 1"),
    (2, TARGETS.format(**GOOD | {"order": "0, 2, 4, 1, 3, 5"}), "the channel comes last"),
    (2, TARGETS.format(**GOOD | {"order": "0, 2, 4, 5, 3, 1"}), "the row comes first"),
    (2, TARGETS.format(**GOOD | {"order": "0, 4, 2, 3, 5, 1"}), "numbered line by line"),
    (2, TARGETS.format(**GOOD | {"result": "pixels - mean"}), "subtract the mean"),
    (2, TARGETS.format(**GOOD | {"result": "(pixels - mean) / variance.sqrt()"}), "add 1e-6"),
    (2, TARGETS.format(**GOOD | {"axis": "(1, 2)"}), "of 4 × 4"),
    (
        2,
        TARGETS.format(**GOOD | {"result": "((pixels - mean) / (variance + 1e-6).sqrt())[0]"}),
        "(image, patch",
    ),
    (6, FAIR.format(**GOOD_FAIR | {"share": "torch.eye(len(texts))"}), "the texts are not used"),
    (6, FAIR.format(**GOOD_FAIR | {"share": "alike"}), "each target is 1/4"),
    (6, FAIR.format(**GOOD_FAIR | {"result": "F.cross_entropy(logits, share)"}), "CLIP's loss of exercise 3"),
    (
        6,
        FAIR.format(**GOOD_FAIR | {"result": GOOD_FAIR["result"].removesuffix(" / 2")}),
        "mean of rows and columns",
    ),
    (6, FAIR.format(**GOOD_FAIR | {"share": "alike / alike.sum()"}), "yours"),
    (2, TARGETS.format(**GOOD | {"result": "(pixels - mean) / (variance.sqrt() + 1e-6)"}), "under the root"),
]
