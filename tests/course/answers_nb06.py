"""Answers to the exercises of notebook 06: (exercise, code), wrong ones with words of the message."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np

from emrrg_lib.evaluation.metrics import bleu_score
from emrrg_lib.evaluation.nlg import nlg_statistics, score_each, score_reports


def grams(text, n):
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


TEXT = (Path(__file__).resolve().parents[2] / "notebooks" / "twins" / "06_metrics.py").read_text(
    encoding="utf-8"
)
PATIENT = "".join(re.findall(r'"(.*?)"', re.search(r"patient = \((.*?)\)\n", TEXT, re.DOTALL).group(1)))
SCOPE = {
    "math": math,
    "np": np,
    "patient": PATIENT,
    "Counter": Counter,
    "grams": grams,
    "bleu_score": bleu_score,
    "nlg_statistics": nlg_statistics,
    "score_each": score_each,
    "score_reports": score_reports,
}
CLIPPED = """
def answer(reference, report, n):
    ours, theirs = grams(report, n), grams(reference, n)
    return """
BLEU = """
def answer(references, reports):
    pairs = list(zip(references, reports))
    c = sum(len(report.split()) for _, report in pairs)
    r = sum(len(reference.split()) for reference, _ in pairs)
    penalty = {penalty}
    scores, product = [], 1.0
    for n in range(1, 5):
        found = sum({found} for reference, report in pairs)
        written = sum(grams(report, n).total() for _, report in pairs)
        product *= found / {written}
        scores.append({score})
    return scores
"""
GOOD_BLEU = {
    "penalty": "min(1.0, math.exp(1 - r / c))",
    "found": "(grams(report, n) & grams(reference, n)).total()",
    "written": "max(1, written)",
    "score": "penalty * product ** (1 / n)",
}
RARITY = """
def answer(run, references):
    words = tuple(run.split())
    N, has = len(references), {has}
    return {result}
"""
GOOD_RARITY = {
    "has": "sum(words in grams(text, len(words)) for text in references)",
    "result": "math.log(N / max(1, has))",
}
CIDER = """
def answer(references, reports):
    N = len(references)
    seen = Counter(run for text in references for n in range(1, 5) for run in grams(text, n))
    def vector(text, n):
        return {{run: {weight} for run, count in grams(text, n).items()}}
    def size(v):
        return math.sqrt(sum(w * w for w in v.values()))
    scores = []
    for reference, report in zip(references, reports):
        total = 0.0
        for n in range(1, {last}):
            ours, theirs = vector(report, n), vector(reference, n)
            dot = sum({ours} * theirs.get(run, 0) for run, w in ours.items())
            both = {both}
            total += dot / both if both else 0.0
        gap = len(report.split()) - len(reference.split())
        scores.append({score})
    return {result}
"""
GOOD_CIDER = {
    "weight": "count * math.log(N / max(1, seen[run]))",
    "last": "5",
    "ours": "min(w, theirs.get(run, 0))",
    "both": "size(ours) * size(theirs)",
    "score": "10 * total / 4 * math.exp(-(gap**2) / 72)",
    "result": "scores",
}
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
BOOT = """
def answer(references, a, b, resamples=1000, seed=0):
    def counts(reports):
        s = nlg_statistics(references, reports, meteor=False)
        return np.column_stack([s.bleu_correct, s.bleu_guess, s.hypothesis_words, s.reference_words])
    def bleu_4(sums):
        return bleu_score(sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9])[:, 3]
    N, rng = len(references), np.random.default_rng({seed})
    def draw():
        return {draw}
    first = draw()
    second = {second}
    drawn_a, drawn_b = bleu_4(first @ counts(a)), bleu_4(second @ counts(b))
    full = np.ones((1, N))
    value = float((bleu_4(full @ counts(a)) - bleu_4(full @ counts(b)))[0])
    return {result}
"""
GOOD_BOOT = {
    "seed": "seed",
    "draw": "rng.multinomial(N, [1 / N] * N, resamples)",
    "second": "first",
    "result": "value, *np.percentile(drawn_a - drawn_b, [2.5, 97.5])",
}
ALSO_RIGHT = [
    (1, f"answer = np.str_({PATIENT.replace('pneumothorax on', 'edema on')!r})"),
    (1, f"answer = {PATIENT.replace('pneumothorax on the right', 'a large effusion is seen')!r}"),
    (2, CLIPPED + "[(ours & theirs).total(), ours.total()]"),
    (
        2,
        "def answer(reference, report, n):\n"
        "    cut = lambda t: [' '.join(t.split()[i:i + n]) for i in range(len(t.split()) - n + 1)]\n"
        "    ours, theirs = cut(report), cut(reference)\n"
        "    return np.array([sum(min(ours.count(g), theirs.count(g)) for g in set(ours)), len(ours)])",
    ),
    (
        3,
        "def answer(references, reports):\n    s = score_reports(references, reports, meteor=False)\n"
        "    return np.array([s[f'Bleu_{n}'] for n in range(1, 5)], dtype=np.float32)",
    ),
    (
        3,
        BLEU.format(
            **GOOD_BLEU | {"score": "penalty * (math.exp(math.log(product) / n) if product else 0.0)"}
        ),
    ),
    (4, RARITY.format(**GOOD_RARITY | {"result": "np.log(N) - np.log(max(1, has))"})),
    (
        4,
        "def answer(run, references):\n"
        "    k = sum(f' {run} ' in f' {text} ' for text in references)\n"
        "    return np.array([math.log(len(references) / (k or 1))])[0]",
    ),
    (5, CIDER.format(**GOOD_CIDER | {"result": "np.array(scores)"})),
    (
        5,
        "def answer(references, reports):\n"
        "    return [s['CIDEr'] for s in score_each(references, reports, meteor=False)]",
    ),
    (6, F1.format(**RIGHT | {"result": "np.array([f1(None), f1(0), f1(1)], dtype=np.float32)"})),
    (
        6,
        "def answer(true, said):\n"
        "    tp, both = (true * said), true.astype(int) + said\n"
        "    f = lambda a: np.nan_to_num(2 * tp.sum(a) / np.where(both.sum(a), both.sum(a), np.nan))\n"
        "    return [f(None), f(0).mean(), f(1).mean()]",
    ),
    (7, GAP + "np.percentile(a - b, [2.5, 97.5])"),
    (7, GAP + "np.quantile(a - b, 0.025), np.quantile(a - b, 0.975)"),
    (7, GAP + "[np.sort(a - b)[int(0.025 * len(a))], np.sort(a - b)[int(0.975 * len(a))]]"),
    (8, NEEDED + "int(np.ceil(N * (2.8 * width / (3.92 * effect)) ** 2))"),
    (8, NEEDED + "float(math.ceil(N * (width / 3.92 * 2.8 / effect) ** 2 - 1e-9))"),
    (9, BOOT.format(**GOOD_BOOT)),
    (
        9,
        BOOT.format(
            **GOOD_BOOT
            | {"draw": "np.array([np.bincount(rng.choice(N, N), minlength=N) for _ in range(resamples)])"}
        ),
    ),
]
WRONG = [
    (1, f"answer = {PATIENT!r}", "as the reference does"),
    (1, f"answer = {PATIENT.replace('pneumothorax on', 'clear on')!r}", "invents none"),
    (1, "answer = 'there is a rib fracture .'", "keep more of the"),
    (1, "answer = 3", "give one text"),
    (2, CLIPPED + "sum(c for run, c in ours.items() if run in theirs), ours.total()", "once only"),
    (2, CLIPPED + "len(ours & theirs), ours.total()", "is twice in both counts twice"),
    (2, CLIPPED + "(ours & theirs).total(), theirs.total()", "written"),
    (2, CLIPPED + "(ours & theirs).total()", "Return two numbers"),
    (2, CLIPPED + "(ours & theirs).total() / max(1, ours.total()), ours.total()", "count runs of words"),
    (
        2,
        "def answer(reference, report, n):\n"
        "    g = lambda t: Counter(t[i:i + n] for i in range(len(t) - n + 1))\n"
        "    return (g(report) & g(reference)).total(), g(report).total()",
        "w words have",
    ),
    (2, CLIPPED + "(ours & theirs).total(), max(1, ours.total())", "too short"),
    (3, BLEU.format(**GOOD_BLEU | {"score": "penalty * product"}), "root of the product is missing"),
    (3, BLEU.format(**GOOD_BLEU | {"penalty": "1.0"}), "the brevity penalty is missing"),
    (3, BLEU.format(**GOOD_BLEU | {"penalty": "math.exp(1 - r / c)"}), "no reward"),
    (3, BLEU.format(**GOOD_BLEU | {"penalty": "min(1.0, c / r)"}), "not c/r"),
    (3, BLEU.format(**GOOD_BLEU | {"score": "penalty * product ** 0.25"}), "not always the fourth"),
    (
        3,
        BLEU.format(
            **GOOD_BLEU | {"found": "sum(k for g, k in grams(report, n).items() if g in grams(reference, n))"}
        ),
        "too often: clip",
    ),
    (
        3,
        "def answer(references, reports):\n    s = score_each(references, reports, meteor=False)\n"
        "    return [sum(x[f'Bleu_{n}'] for x in s) / len(s) for n in range(1, 5)]",
        "mean of the pairs",
    ),
    (3, BLEU.format(**GOOD_BLEU | {"score": "penalty * found / max(1, written)"}), "are the precisions"),
    (
        3,
        BLEU.format(**GOOD_BLEU | {"score": "penalty * math.exp(math.log(product) / n)"}),
        "raised ValueError",
    ),
    (3, BLEU.format(**GOOD_BLEU).replace("return scores", "return scores[3]"), "BLEU-1 to BLEU-4"),
    (4, RARITY.format(**GOOD_RARITY | {"result": "math.log2(N / max(1, has))"}), "not base 2"),
    (4, RARITY.format(**GOOD_RARITY | {"result": "math.log(N / (1 + has))"}), "do not add 1"),
    (4, RARITY.format(**GOOD_RARITY | {"has": "sum(run in text for text in references)"}), "whole words"),
    (
        4,
        RARITY.format(**GOOD_RARITY | {"has": "sum(grams(text, len(words))[words] for text in references)"}),
        "each once",
    ),
    (4, RARITY.format(**GOOD_RARITY | {"result": "math.log(N / has)"}), "raised ZeroDivisionError"),
    (4, RARITY.format(**GOOD_RARITY | {"result": "N / max(1, has)"}), "the logarithm is missing"),
    (
        4,
        RARITY.format(**GOOD_RARITY | {"has": "sum(set(words) <= set(t.split()) for t in references)"}),
        "order",
    ),
    (5, CIDER.format(**GOOD_CIDER | {"score": "total / 4 * math.exp(-(gap**2) / 72)"}), "times ten"),
    (5, CIDER.format(**GOOD_CIDER | {"score": "10 * total / 4"}), "another length is missing"),
    (5, CIDER.format(**GOOD_CIDER | {"ours": "w"}), "take the smaller weight"),
    (5, CIDER.format(**GOOD_CIDER | {"weight": "count"}), "multiplied by the rarity"),
    (5, CIDER.format(**GOOD_CIDER | {"weight": GOOD_CIDER["weight"][8:]}), "count of the run times"),
    (5, CIDER.format(**GOOD_CIDER | {"both": "1.0"}), "by the lengths of both vectors"),
    (5, CIDER.format(**GOOD_CIDER | {"last": "2"}), "an exact copy"),
    (5, CIDER.format(**GOOD_CIDER | {"result": "sum(scores) / N"}), "one number for each pair"),
    (6, F1.format(**RIGHT | {"total": "total"}), "There is a NaN"),
    (6, F1.format(**RIGHT | {"mean": "np.nanmean", "total": "total"}), "leaves out the observation"),
    (6, F1.format(**RIGHT | {"result": "f1(None), f1(1), f1(0)"}), "are exchanged"),
    (6, F1.format(**RIGHT | {"result": "np.mean(true == said), f1(0), f1(1)"}), "that is accuracy"),
    (6, F1.format(**RIGHT | {"result": "f1(None), f1(None), f1(1)"}), "F1 of the observations"),
    (6, F1.format(**RIGHT | {"result": "f1(0)"}), "expected (micro, macro, example)"),
    (6, "def answer(true, said):\n    return 2 / 3, 5 / 12, 1 / 2", "random labels"),
    (7, GAP + "np.percentile(b - a, [2.5, 97.5])", "The sign is turned"),
    (
        7,
        GAP + "np.percentile((draws @ (hits_a / words_a) - draws @ (hits_b / words_b)) / draws.sum(1),"
        " [2.5, 97.5])",
        "mean of the studies' precisions",
    ),
    (7, GAP + "np.percentile(a - np.roll(b, 1), [2.5, 97.5])", "drawn independently"),
    (7, GAP + "np.percentile(a - b, [5, 95])", "the middle 90 %"),
    (7, GAP + "np.array([(a - b).min(), (a - b).max()])", "smallest to the largest"),
    (7, GAP + "np.percentile(a - b, 97.5)", "expected (low, high)"),
    (
        7,
        GAP + "np.percentile(a, [2.5, 97.5]) - np.percentile(b, [2.5, 97.5])",
        "a rises where b falls",
    ),
    (8, NEEDED + "math.ceil(N * width / 3.92 / (effect / 2.8))", "root of N"),
    (8, NEEDED + "math.ceil(N * (width / 1.96 / (effect / 2.8)) ** 2)", "from end to end"),
    (8, NEEDED + "math.ceil(N * (width / 3.92 / (effect / 1.96)) ** 2)", "a power of one half"),
    (8, NEEDED + "round(N * (width / 3.92 / (effect / 2.8)) ** 2)", "so round up"),
    (8, NEEDED + "math.ceil(N * (effect / 2.8 / (width / 3.92)) ** 2)", "the ratio is turned"),
    (8, NEEDED + "math.ceil((width / 3.92 / (effect / 2.8)) ** 2)", "multiply by the N"),
    (9, BOOT.format(**GOOD_BOOT | {"second": "draw()"}), "draw once for both"),
    (9, BOOT.format(**GOOD_BOOT | {"seed": ""}), "same seed"),
    (
        9,
        BOOT.format(**GOOD_BOOT | {"result": "-value, *np.percentile(drawn_b - drawn_a, [2.5, 97.5])"}),
        "turned",
    ),
    (9, BOOT.format(**GOOD_BOOT | {"draw": "np.ones((resamples, N))"}), "no width"),
    (9, BOOT.format(**GOOD_BOOT | {"result": "value, *np.percentile(drawn_a - drawn_b, [5, 95])"}), "90 %"),
    (
        9,
        BOOT.format(
            **GOOD_BOOT
            | {"result": "value, *(np.quantile(drawn_a, [.025, .975]) - np.quantile(drawn_b, [.025, .975]))"}
        ),
        "ends of two intervals",
    ),
    (9, BOOT.format(**GOOD_BOOT | {"draw": "rng.multinomial(N // 3, [1 / N] * N, resamples)"}), "Too wide"),
    (
        9,
        BOOT.format(**GOOD_BOOT | {"result": "np.percentile(drawn_a - drawn_b, [2.5, 97.5])"}),
        "(difference, low",
    ),
    (
        2,
        "def answer(a, b, n):\n    both = grams(a, n) & grams(b, n)\n"
        "    return both.total(), len(b.split()) - n + 1",
        "w − n + 1",
    ),
]
