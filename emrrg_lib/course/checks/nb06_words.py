"""Checks of notebook 06 on word overlap, exercises 1 to 5. Truth: the scorers of the library; runs of words
counted by crossing them off; logarithms of counted fractions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from emrrg_lib.course.checks import array, call, exercise, expect, expect_value, pair, stage, texts, whole
from emrrg_lib.evaluation import label_report
from emrrg_lib.evaluation.nlg import score_each, score_reports

BLEU = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")


def _findings(text: str) -> set[str]:
    return {name for name, value in label_report(text).items() if value in (1, -1)} - {"No Finding"}


def _text(rng: np.random.Generator, length: int, words: str = "a b c d e f") -> str:
    return " ".join(rng.choice(words.split(), length))


def draw_corpus(seed: int, studies: int, words: str = "a b c d e f") -> tuple[list[str], list[str]]:
    """References, and reports that are parts of them with some words exchanged."""
    rng = np.random.default_rng(seed)
    references = [_text(rng, int(rng.integers(7, 13)), words) for _ in range(studies)]
    parts = [text.split()[rng.integers(3) :] for text in references]
    reports = [
        " ".join(word if rng.random() < 0.8 else _text(rng, 1, words) for word in part) for part in parts
    ]
    return references, reports


@exercise(1)
def check_1(report: str, patient: str) -> str:
    """`report`: BLEU-4 of 0.8 or more against `patient`, no finding of it, one that it has not."""
    report = texts([report] if isinstance(report, str) else report, "give one text")[0]
    bleu = score_each([patient], [report], meteor=False)[0]["Bleu_4"]
    kept, invented = (_findings(report) & _findings(patient), _findings(report) - _findings(patient))
    expect(not kept, f"It still names {', '.join(sorted(kept))}, as the reference does: of some use.")
    expect(bool(invented), "It misses the finding but invents none: claim something that is not there.")
    expect(
        bleu >= 0.8,
        f"Worthless it is, but BLEU-4 is {bleu:.2f}, expected 0.80 or more: keep more of the "
        "reference's runs of four words.",
    )
    return f"BLEU-4 {bleu:.2f}, and it invents {', '.join(sorted(invented))}."


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def _crossed_off(reference: str, report: str, n: int) -> tuple[int, int]:
    """Each run of the report takes its like out of the reference's list."""
    left, found = _runs(reference, n), 0
    for run in _runs(report, n):
        if run in left:
            left.remove(run)
            found += 1
    return found, len(_runs(report, n))


@exercise(2)
def check_2(clipped: Callable) -> str:
    """`clipped(reference, report, n)` → (found, written)."""
    cases = [
        ("one word", "the lungs are clear", "the heart is clear", 1, "“the” and “clear” of 4 words"),
        ("runs", "no effusion is seen", "is seen no effusion", 2, "the order of the words counts"),
        ("whole words", "heart", "he art he", 1, "compare words, not letters"),
        ("clipping", "the lungs are clear", "the the the the", 1, "there is one “the” to be found"),
        ("clipping", "a b a b a", "a b a b a b", 2, "“a b” and “b a” are twice in the reference"),
        ("too short", "a b c", "a b", 3, "a report of two words has no run of three"),
        ("too short", "a b c", "a", 4, "a report of one word has no run of four, not −2"),
        ("too short", "a b", "a b c", 3, "the reference has no run of three, the report has one"),
    ]
    rng = np.random.default_rng(6)
    for n in (1, 2, 3, 4):
        one = _text(rng, 9, "x y z"), _text(rng, 12, "x y z")
        cases.append((f"random words, n = {n}", *one, n, "is the smaller count of each run taken"))
    for name, reference, report, n, cause in cases:
        with stage(name):
            yours = pair(call(clipped, reference, report, n), "Return two numbers: found, written.")
            found, written = (whole(part, "count runs of words") for part in yours)
            truth = _crossed_off(reference, report, n)
            where = f"clipped({reference!r}, {report!r}, {n})"
            expect_value(written, truth[1], "w words have w − n + 1 runs.", where=f"{where}, written")
            runs, known = _runs(report, n), set(_runs(reference, n))
            slips = [
                (sum(run in known for run in runs), "a run of the reference is found once only: clip."),
                (len(set(runs) & known), "a run that is twice in both counts twice."),
            ]
            expect_value(found, truth[0], f"{cause}.", slips, f"{where}, found")
    return "This is the numerator and the denominator of every precision in BLEU."


def _bleu(
    references: Sequence[str], reports: Sequence[str], clip: bool = True, penalty: Callable | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Precisions (4,) of a corpus and its brevity penalty; each can be made wrong."""
    found, written = np.zeros(4), np.zeros(4)
    for reference, report in zip(references, reports, strict=True):
        for n in range(1, 5):
            known = set(_runs(reference, n))
            loose = sum(run in known for run in _runs(report, n))
            found[n - 1] += _crossed_off(reference, report, n)[0] if clip else loose
            written[n - 1] += len(_runs(report, n))
    c, r = (sum(len(text.split()) for text in each) for each in (reports, references))
    return found / np.maximum(written, 1), (penalty or (lambda c, r: min(1.0, math.exp(1 - r / c))))(c, r)


_ORDERS = np.arange(1, 5)


def _slips_of_bleu(references: Sequence[str], reports: Sequence[str]) -> list[tuple[np.ndarray, str]]:
    p, penalty = _bleu(references, reports)
    product = np.cumprod(p)
    each = [_bleu([one], [other]) for one, other in zip(references, reports, strict=True)]
    mean = np.mean([b * np.cumprod(q) ** (1 / _ORDERS) for q, b in each], axis=0)
    loose, _ = _bleu(references, reports, clip=False)

    def with_penalty(wrong: Callable) -> np.ndarray:
        return _bleu(references, reports, penalty=wrong)[1] * product ** (1 / _ORDERS)

    return [
        (penalty * p, "these are the precisions; BLEU-n is the geometric mean of those up to n."),
        (penalty * np.cumsum(p) / _ORDERS, "that is the arithmetic mean; take the root of the product."),
        (penalty * product, "the n-th root of the product is missing."),
        (penalty * product**0.25, "the root of BLEU-n is the n-th one, not always the fourth."),
        (penalty * np.cumprod(loose) ** (1 / _ORDERS), "a repeated run is found too often: clip."),
        (mean, "that is the mean of the pairs' BLEU; sum found and written over the corpus, then divide."),
        (product ** (1 / _ORDERS), "the brevity penalty is missing, or it is turned: it is for c < r."),
        (with_penalty(lambda c, r: math.exp(1 - r / c)), "a long report gets no reward: at most 1."),
        (with_penalty(lambda c, r: min(1.0, c / r)), "the penalty is exp(1 − r/c), not c/r."),
    ]


@exercise(3)
def check_3(corpus_bleu: Callable) -> str:
    """`corpus_bleu(references, reports)` → BLEU-1..4, against the published scorer."""
    cases = [
        ("one pair, equal lengths", ["a b c d e f g h"], ["a b c d e x g h"], "the root of the product"),
        ("clipping", ["a b c d e f g h"], ["a b c d e a b c"], "the smaller count of each run"),
        ("brevity", ["a b c d e f g h"], ["a b c d e"], "5 words of 8: exp(1 − 8/5)"),
        ("too long", ["a b c d e"], ["a b c d e f g h"], "too long has no penalty; the precisions fall"),
        ("corpus", ["a b c d e f", "a b c d"], ["a b c d e x", "a b c x"], "sum, then divide"),
        ("all lengths", ["a b c d e f g h", "a b c d"], ["a b c d e f"] * 2, "12 words and 12 words"),
        ("two words", ["a b c d e f", "a b"], ["a b c d e f", "a b"], "no run of three is no error"),
    ]
    cases += [
        (f"{size} random pairs", *draw_corpus(size, size), "compare with exercise 2") for size in (3, 40)
    ]
    for name, references, reports, cause in cases:
        with stage(name):
            given = list(references), list(reports)
            yours = array(call(corpus_bleu, *given), (4,), "four numbers, BLEU-1 to BLEU-4.")
            expect(given == (references, reports), "Your function changes the lists that it is given.")
            expect(not np.isnan(yours).any(), "There is a NaN: a division by 0, or the log of 0.")
            scores = score_reports(references, reports, meteor=False)
            truth = np.array([scores[name] for name in BLEU])
            expect_value(yours, truth, f"{cause}.", _slips_of_bleu(references, reports), "BLEU-1..4")
    with stage("nothing found"):
        yours = array(call(corpus_bleu, ["a b c d e"], ["a b c x y"]), (4,), "four numbers.")
        cause = "no run of four is found: BLEU-4 is 0, and no error."
        expect_value(yours, [0.6, 0.3**0.5, 0.1 ** (1 / 3), 0.0], cause, where="BLEU-1..4", tolerance=1e-3)
    return "Equal to the published scorer, pycocoevalcap 1.2."


@exercise(4)
def check_4(rarity: Callable) -> str:
    """`rarity(run, references)` → log(N / number of references with the run)."""
    four = ["the heart is large", "the lungs are clear", "the the the heart", "no lung is seen here"]
    cases = [
        ("one of four", "clear", four, 4 / 1, "one of 4 references has it: ln 4"),
        ("twice in one", "the heart", four, 4 / 2, "two of 4 have it: ln 2"),
        ("a reference counts once", "the", four, 4 / 3, "three of 4 have “the”, however often: ln (4/3)"),
        ("whole words", "lung", four, 4 / 1, "“lungs” is another word than “lung”"),
        ("whole words", "he", four, 4 / 1, "no reference has the word “he”: as if one had it, ln 4"),
        ("in every one", "a", ["a b", "c a", "a"], 1.0, "what all have weighs ln 1 = 0"),
        ("neighbours", "b a", ["a b", "b c a", "b a", "a", "c"], 5.0, "these words in this order"),
        ("never seen", "x y", ["a", "b", "c"], 3.0, "count max(1, …), so that nothing is divided by 0"),
    ]
    rng = np.random.default_rng(4)
    for size in (3, 11, 50):
        drawn = [_text(rng, 9, "a b c d e f g h i j k l m") for _ in range(size)]
        for run in ("a", "c d", "k l m"):
            has = sum(tuple(run.split()) in _runs(text, len(run.split())) for text in drawn)
            cases.append(("random references", run, drawn, size / max(1, has), f"{has} of {size} have it"))
    for name, run, references, ratio, cause in cases:
        with stage(name):
            yours = array(call(rarity, run, list(references)), (), "one number.")
            truth, N, has = math.log(ratio), len(references), len(references) / ratio
            letters = sum(run in text for text in references)
            times = sum(_runs(text, len(run.split())).count(tuple(run.split())) for text in references)
            slips = [
                (math.log2(ratio), "take the natural logarithm, not base 2."),
                (math.log10(ratio), "take the natural logarithm, not base 10."),
                (ratio, "the logarithm is missing."),
                (-truth, "the fraction is turned: N above, the count below."),
                (math.log(N / max(1, letters)), "you compare letters; a run is made of whole words."),
                (math.log(N / max(1, times)), "count the references that have it, each once."),
                (math.log(N / (1 + has)), "do not add 1 to the count; CIDEr takes max(1, count)."),
                (math.log((1 + N) / (1 + has)) + 1, "that is the smoothed idf of another library."),
            ]
            where = f"rarity({run!r}, {N} references)"
            expect_value(yours, truth, f"{cause}.", slips, where)
    return "What everybody writes weighs nothing."


def _cider(references: Sequence[str], reports: Sequence[str], **wrong: bool) -> np.ndarray:
    """CIDEr of N pairs; each keyword leaves one step out."""
    N = len(references)
    seen = [Counter(run for text in references for run in set(_runs(text, n))) for n in range(1, 5)]

    def vector(text: str, n: int) -> dict:
        return {
            run: (1 if "count" in wrong else count)
            * (1.0 if "rarity" in wrong else math.log(N / max(1, seen[n - 1][run])))
            for run, count in Counter(_runs(text, n)).items()
        }

    scores = []
    for reference, report in zip(references, reports, strict=True):
        parts = []
        for n in range(1, 5):
            ours, theirs = vector(report, n), vector(reference, n)
            size = math.sqrt(sum(w * w for w in ours.values()) * sum(w * w for w in theirs.values()))
            limited = ours if "clip" in wrong else {r: min(w, theirs.get(r, 0)) for r, w in ours.items()}
            dot = sum(w * theirs.get(run, 0) for run, w in limited.items())
            size = 1.0 if "norm" in wrong and size else size
            parts.append(dot / size if size else 0.0)
        gap = len(report.split()) - len(reference.split())
        scores.append(np.mean(parts) * (1 if "length" in wrong else math.exp(-(gap**2) / 72)))
    return np.array(scores) * (1 if "ten" in wrong else 10)


_CIDER = {
    "ten": "the mean over n is taken times ten.",
    "length": "the punishment of another length is missing: exp(−(difference in words)² / 72).",
    "clip": "a run that the report repeats counts no more than in the reference: take the smaller weight.",
    "rarity": "each count is multiplied by the rarity of its run.",
    "norm": "a cosine is divided by the lengths of both vectors.",
    "count": "a weight is the count of the run times its rarity.",
}


@exercise(5)
def check_5(cider: Callable) -> str:
    """`cider(references, reports)` → N scores, against the published scorer."""
    three = ["a b c d e f", "a b g h i j", "k l m n o p"]
    cases = [
        ("an exact copy", three, list(three), "the cosine of a text with itself is 1"),
        ("nothing shared", three, ["x y z x y z", "k l m n o p", "a b c d e f"], "no run shared, so 0"),
        ("no rare run", ["a b c d"] * 2, ["a b c d"] * 2, "both have every run: all weigh 0, score 0"),
        ("cosine", three, ["a b c x y f", "a b g h x j", "k x m n o p"], "Σ ours · theirs over both lengths"),
        ("repetition", three, ["c c c d e f", "a b g g g j", "k l m n o p"], "the smaller of both weights"),
        ("length", three, ["a b c d e f x y z", "a b g", "k l m n o p"], "exp(−(words − words)² / (2 · 6²))"),
    ]
    for size in (3, 20):
        drawn = draw_corpus(size, size, "a b c d e f g h i j")
        cases.append((f"{size} random pairs", *drawn, "is the mean over n = 1 to 4 taken"))
    for name, references, reports, cause in cases:
        with stage(name):
            given = list(references), list(reports)
            yours = array(call(cider, *given), (len(references),), "one number for each pair.")
            expect(given == (references, reports), "Your function changes the lists that it is given.")
            expect(not np.isnan(yours).any(), "There is a NaN: with a vector of length 0 the part is 0.")
            truth = [scores["CIDEr"] for scores in score_each(references, reports, meteor=False)]
            slips = [(_cider(references, reports, **{step: True}), told) for step, told in _CIDER.items()]
            expect_value(yours, truth, f"{cause}.", slips, "CIDEr")
    return "Equal to the published scorer, pycocoevalcap 1.2."
