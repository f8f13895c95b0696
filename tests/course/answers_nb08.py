"""Wrong answers to the exercises of notebook 08: (exercise, code, words of the message)."""

import math

import torch
import torch.nn.functional as F

SCOPE = {"math": math, "torch": torch, "F": F}
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
    (2, LOSS.format(**PAIR | {"result": "F.cross_entropy(logits, target)"}), "Only the rows"),
    (2, LOSS.format(**PAIR | {"result": "F.cross_entropy(logits.T, target)"}), "Only the columns"),
    (2, LOSS.format(**PAIR | {"result": PAIR["result"].removesuffix(" / 2")}), "take their mean"),
    (2, LOSS.format(**PAIR | {"logits": "images @ reports.T"}), "The scale is not used"),
    (2, LOSS.format(**PAIR | {"logits": "images @ reports.T / scale"}), "You divide by the scale"),
    (2, LOSS.format(**PAIR | {"logits": "math.exp(scale) * images @ reports.T"}), "You take exp(scale)"),
    (2, LOSS.format(**PAIR | {"normed": "images, reports"}), "normalise both"),
    (2, LOSS.format(**PAIR | {"result": "logits"}), "a scalar tensor"),
    (3, FLOOR + "0.0", "nothing better than a draw"),
    (3, FLOOR + "math.log(len(texts))", "a model pays that knows nothing"),
    (3, FLOOR + "sum(math.log(texts.count(t)) for t in texts)", "divide the sum"),
    (
        3,
        FLOOR + "sum(math.log(texts.count(t)) for t in set(texts)) / len(set(texts))",
        "not each different text",
    ),
    (3, FLOOR + "sum(math.log2(texts.count(t)) for t in texts) / len(texts)", "not base 2"),
    (4, NEW.format(**COPY | {"a_log": "parts[3] + ending"}), "comes after the A"),
    (4, NEW.format(**COPY | {"others": 'parts[2:3] != ["mixer"]'}), "all directions share in_proj"),
    (
        4,
        NEW.format(
            **COPY | {"joined": '".".join([*parts[:3], new]) if parts[3] == "A_log" else name + ending'}
        ),
        "belongs to the module",
    ),
    (4, NEW.format(**COPY | {"others": COPY["others"].replace('"D", ', "")}), "look at the list of five"),
    (
        4,
        """
def answer(name):
    for part in ("A", "D", "conv1d", "x_proj", "dt_proj"):
        if part in name:
            return [name.replace(part, part + ending) for ending in ("", "_b", "_c", "_c_b")]
    return [name]
""",
        "Compare whole parts, not letters",
    ),
    (4, "def answer(name):\n    return name", "expected a list of names"),
    (4, "def answer(name):\n    return [name]", "a name for each of four directions"),
]
