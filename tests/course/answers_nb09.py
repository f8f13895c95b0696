"""Answers to the exercises of notebook 09: (exercise, code), wrong ones with words of the message."""

import numpy as np
import pandas as pd

SCOPE = {"np": np, "pd": pd, "tables": {}}
SPREAD = """
def answer(frame, metric):
    mine = {mine}
    return {{row: (values.{mean}(), {sd}) for row, values in mine.groupby("row")[{metric}]}}
"""
RIGHT = {
    "mine": 'frame[frame["source"] == "this run"]',
    "mean": "mean",
    "metric": "metric",
    "sd": "values.std(ddof=1) if len(values) > 1 else None",
}
PAIRED = """
def answer(a, b, draws):
    gap = {gap}
    drawn = {drawn}
    low, high = np.percentile(drawn, {ends})
    return {value}, low, high
"""
PAIR = {
    "gap": "a.mean(axis=0) - b.mean(axis=0)",
    "drawn": "draws @ gap / draws.sum(axis=1)",
    "ends": "[2.5, 97.5]",
    "value": "gap.mean()",
}
BEST = """
def answer(k, sd, seeds):
    tables = np.random.default_rng(0).normal(0, {sd}, (40_000, {k}))
    return {result}
"""
LUCK = {"sd": "sd / seeds**0.5", "k": "k", "result": "tables.max(axis=1).mean()"}
ALSO_RIGHT = [
    (1, "answer = 'partial_lora.r=4 policy=table6-X'"),
    (1, "answer = 'policy=table6-X   partial_lora.r=4 '"),
    (2, SPREAD.format(**RIGHT | {"mine": "frame.query(\"source == 'this run'\")"})),
    (
        2,
        "def answer(frame, metric):\n    found = {}\n    for _, line in frame.iterrows():\n"
        "        if line['source'] == 'this run':\n"
        "            found.setdefault(line['row'], []).append(line[metric])\n"
        "    return {r: [np.mean(v), np.std(v, ddof=1) if len(v) > 1 else None] for r, v in found.items()}",
    ),
    (3, PAIRED.format(**PAIR | {"drawn": "(draws / draws.sum(1, keepdims=True)) @ gap"})),
    (3, PAIRED.format(**PAIR | {"drawn": "draws @ a.mean(0) / 40 - draws @ b.mean(0) / 40"})),
    (4, BEST.format(**LUCK | {"result": "float(np.sort(tables)[:, -1].mean())"})),
    (
        4,
        "def answer(k, sd, seeds):\n"
        "    tables = np.random.default_rng(5).normal(7, sd, (40_000, k, seeds)).mean(axis=2)\n"
        "    return tables.max(axis=1).mean() - 7",
    ),
    (
        3,
        "def answer(a, b, draws):\n    gap = a.mean(0) - b.mean(0)\n"
        "    means = [np.repeat(gap, times).mean() for times in draws]\n"
        "    return [gap.mean(), *np.quantile(means, [0.025, 0.975])]",
    ),
]
WRONG = [
    (1, "answer = 'policy=table6-X'", "the rank is 8, expected 4"),
    (1, "answer = 'partial_lora.r=4'", "acts on X, in_proj"),
    (1, "answer = 'policy=table6-in_proj partial_lora.r=4'", "acts on in_proj, expected X alone"),
    (1, "answer = 'policy=lora-x partial_lora.r=4'", "has hybrid layers"),
    (1, "answer = 'policy=table5-5 partial_lora.r=4'", "has its own LoRA"),
    (1, "answer = 'policy=table6-X r=4'", "row_config refuses it"),
    (1, "answer = 'policy=table6-X,partial_lora.r=4'", "parted by blanks"),
    (1, "answer = 'policy=table6-X llm.lora_r=4'", "rank of LoRA in the language model"),
    (1, "answer = 'policy=full partial_lora.r=4'", "tuned as 'full'"),
    (1, "answer = 'policy=table6-X partial_lora.r=4 train.steps=100'", "Something else has changed"),
    (1, "answer = ['policy=table6-X', 'partial_lora.r=4']", "expected a text"),
    (2, SPREAD.format(**RIGHT | {"sd": "values.std(ddof=0) if len(values) > 1 else None"}), ": n − 1"),
    (2, SPREAD.format(**RIGHT | {"sd": "values.var() if len(values) > 1 else None"}), "is the variance"),
    (2, SPREAD.format(**RIGHT | {"sd": "values.sem() if len(values) > 1 else None"}), "error of the mean"),
    (2, SPREAD.format(**RIGHT | {"sd": "values.std(ddof=1)"}), "yours says sd nan"),
    (2, SPREAD.format(**RIGHT | {"sd": "values.std(ddof=0)"}), "yours says sd 0.0"),
    (2, SPREAD.format(**RIGHT | {"mean": "median"}), "not their median"),
    (
        2,
        "def answer(frame, metric):\n    return frame.groupby('row')[metric].agg(['mean', 'std'])",
        "expected a dict",
    ),
    (2, SPREAD.format(**RIGHT | {"mine": "frame"}), "A control is not a row"),
    (2, SPREAD.format(**RIGHT | {"mine": 'frame[frame["source"] != "control"]'}), "d was left out"),
    (
        2,
        SPREAD.format(**RIGHT | {"mine": 'frame[~frame["source"].isin(["control", "left out"])]'}),
        "holds the paper's value",
    ),
    (2, SPREAD.format(**RIGHT | {"metric": '"Bleu_4"'}), "read the metric that it is given"),
    (3, PAIRED.format(**PAIR | {"gap": "b.mean(axis=0) - a.mean(axis=0)"}), "The sign is turned"),
    (3, PAIRED.format(**PAIR | {"drawn": "draws @ gap"}), "number of studies"),
    (3, PAIRED.format(**PAIR | {"ends": "[5, 95]"}), "the middle 90 %"),
    (
        3,
        PAIRED.format(**PAIR | {"drawn": "(draws @ a.mean(0) - np.roll(draws, 1, 0) @ b.mean(0)) / 40"}),
        "must see the same drawn studies",
    ),
    (
        3,
        PAIRED.format(
            **PAIR
            | {"drawn": "np.random.default_rng(0).choice((a - b).ravel(), (len(draws), a.size)).mean(1)"}
        ),
        "are not new studies",
    ),
    (3, PAIRED.format(**PAIR | {"drawn": "draws @ (a[0] - b[0]) / 40"}), "only the first seed"),
    (3, PAIRED.format(**PAIR | {"drawn": "np.full(len(draws), gap.mean())"}), "has no width"),
    (3, PAIRED.format(**PAIR | {"value": "gap.sum()"}), "minus that of b"),
    (3, "def answer(a, b, draws):\n    return (a.mean(0) - b.mean(0)).mean()", "expected (difference"),
    (4, BEST.format(**LUCK | {"result": "np.ptp(tables, axis=1).mean()"}), "highest − lowest"),
    (4, "def answer(k, sd, seeds):\n    return sd * (2 * np.log(k) / seeds)**0.5", "huge k only"),
    (4, BEST.format(**LUCK | {"sd": "sd"}), "4 seeds has half the sd"),
    (4, BEST.format(**LUCK | {"sd": "sd / seeds"}), "not by seeds"),
    (4, BEST.format(**LUCK | {"sd": "sd", "k": "k * seeds"}), "the best of all trainings"),
    (4, BEST.format(**LUCK | {"sd": "sd**2 / seeds**0.5"}), "do not square it"),
    (4, BEST.format(**LUCK | {"sd": "(sd / seeds)**0.5"}), "take no root of it"),
    (4, BEST.format(**LUCK | {"result": "abs(tables).max(axis=1).mean()"}), "there is no choice"),
    (4, BEST.format(**LUCK | {"result": "tables.max() if k > 1 else 0.0"}), "the larger of two equal rows"),
    (
        2,
        SPREAD.format(
            **RIGHT
            | {"mine": "frame.drop(frame[frame['source'] != 'this run'].index, inplace=True) or frame"}
        ),
        "changes the table",
    ),
    (4, BEST.format(**LUCK | {"result": "np.median(tables.max(axis=1))"}), "k = 11"),
    (
        2,
        "def answer(frame, metric):\n    mine = frame[frame['source'] == 'this run']\n"
        "    return mine.groupby('row')[metric].mean().to_dict()",
        "Each row has two values",
    ),
]
