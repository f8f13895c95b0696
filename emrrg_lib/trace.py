"""The record of one generated report: which words opened the gates, and where each word looked.

`EMRRG.generate(..., trace=True)` makes it. It is the only object that figures, explorers and pages read.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from emrrg_lib.files import InputError, atomic_path

_MARK = re.compile(r"[.,;:!?()\[\]<]")  # a piece with this first character starts a new word
_UNREADABLE = (KeyError, ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile)
_SLACK = 1e-3  # rounding left over by half-precision softmax and tanh


@dataclass(frozen=True)
class Word:
    """One word of the report and the tokens [start, stop) that spell it."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class Trace:
    """What the hybrid decoder layers did while one report was written (paper §3.4, Eq. 1 and 2).

    Attributes:
        tokens: the T generated tokens as text pieces; a leading space is kept.
        gate: (layer, token) float32, tanh(w_g·S + b_g) · tanh(α): how much of the image each token
            let in, with its sign.
        attention: (layer, head, token, view, patch) float32 cross-attention weights without the cls
            token's share, so that the sum over (view, patch) is at most 1.
        grid: patch grid (rows, cols) of one view.
        layer_ids: the LLM's index of each hybrid layer, first to last.
        warm_up: (layer,) float32, tanh(α).

    Raises:
        ValueError: shapes that disagree, or values that are impossible; the sentence names both sides.
    """

    tokens: tuple[str, ...]
    gate: np.ndarray
    attention: np.ndarray
    grid: tuple[int, int]
    layer_ids: tuple[int, ...]
    warm_up: np.ndarray

    def __post_init__(self) -> None:
        for name in ("gate", "attention", "warm_up"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        object.__setattr__(self, "tokens", tuple(str(token) for token in self.tokens))
        object.__setattr__(self, "grid", tuple(int(side) for side in self.grid))
        object.__setattr__(self, "layer_ids", tuple(int(layer) for layer in self.layer_ids))
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        layers, tokens, grid = len(self.layer_ids), len(self.tokens), self.grid
        _need(len(grid) == 2 and min(grid) > 0, f"grid must be (rows, cols), not {grid}.")
        for name, need in (("gate", (layers, tokens)), ("warm_up", (layers,))):
            found = getattr(self, name).shape
            message = f"{name} has shape {found}, but {layers} layer_ids and {tokens} tokens need {need}."
            _need(found == need, message)
        shape = self.attention.shape
        axes = "(layer, head, token, view, patch)"
        _need(len(shape) == 5, f"attention must have the axes {axes}, but its shape is {shape}.")
        need = (layers, shape[1], tokens, shape[3], grid[0] * grid[1])
        _need(
            shape == need and shape[1] > 0 and shape[3] > 0,
            f"attention has {axes} = {shape}, but layer_ids, tokens and grid {grid} need {need}.",
        )

    def _check_values(self) -> None:
        for name in ("gate", "attention", "warm_up"):
            finite = np.isfinite(getattr(self, name)).all()
            _need(finite, f"{name} holds NaN or infinity; a trace must be finite.")
        for name in ("gate", "warm_up"):
            most = np.abs(getattr(self, name)).max(initial=0.0)
            _need(most <= 1 + _SLACK, f"{name} is a tanh and lies in [-1, 1], not at {most:g}.")
        least = self.attention.min(initial=0.0)
        _need(least >= -_SLACK, f"attention weights cannot be negative, but one is {least:g}.")
        total = self.attention.sum(axis=(3, 4)).max(initial=0.0)
        _need(total <= 1 + 10 * _SLACK, f"attention of one token sums to {total:g}, not <= 1.")

    @property
    def views(self) -> int:
        """Number of X-ray views."""
        return self.attention.shape[3]

    @property
    def heads(self) -> int:
        """Number of attention heads of a hybrid layer."""
        return self.attention.shape[1]

    @property
    def text(self) -> str:
        """The generated text as it reads, without outer spaces."""
        return "".join(self.tokens).strip()

    def words(self) -> tuple[Word, ...]:
        """Groups sub-word tokens into words.

        A token that begins with white space or a punctuation mark starts a new word. Every other
        token continues the word before it. A token of white space alone belongs to no word.

        Returns:
            Words in reading order, with half-open token spans.
        """
        words: list[Word] = []
        after_mark = True
        for index, token in enumerate(self.tokens):
            piece = token.strip()
            if not piece:
                after_mark = after_mark or token != ""
                continue
            starts = after_mark or token[0].isspace() or _MARK.match(piece)
            if starts or not words:
                words.append(Word(piece, index, index + 1))
            else:
                words[-1] = Word(words[-1].text + piece, words[-1].start, index + 1)
            after_mark = token[-1].isspace() or bool(_MARK.fullmatch(piece))
        return tuple(words)

    def word_attention(
        self, word_index: int, layer: int, heads: str | int | Sequence[int] = "mean"
    ) -> np.ndarray:
        """The patches that one word looked at, averaged over the tokens that spell it.

        Args:
            word_index: position in `words()`.
            layer: position on the layer axis, 0 to len(layer_ids) - 1; negative counts from the
                end.
            heads: "mean" over all heads, "max" over all heads, one head's number, or several to
                average.

        Returns:
            (view, rows, cols) float32 weights.

        Raises:
            ValueError: if the word, the layer or a head does not exist.
        """
        words, layers = self.words(), len(self.layer_ids)
        _need(0 <= word_index < len(words), f"There is no word {word_index} of {len(words)}.")
        _need(-layers <= layer < layers, f"There is no hybrid layer {layer} of {layers}, from 0.")
        word = words[word_index]
        weights = self.attention[layer, :, word.start : word.stop].mean(axis=1)  # (head, view, patch)
        if isinstance(heads, str):
            known = heads in ("mean", "max")
            _need(known, f'heads must be "mean", "max" or numbers, not {heads!r}.')
            joined = weights.mean(axis=0) if heads == "mean" else weights.max(axis=0)
        else:
            chosen = [heads] if isinstance(heads, int | np.integer) else list(heads)
            exist = chosen and all(0 <= head < self.heads for head in chosen)
            _need(exist, f"heads {chosen} do not all exist: there are {self.heads}, from 0.")
            joined = weights[chosen].mean(axis=0)
        return joined.reshape(self.views, *self.grid)

    def save(self, path: str | Path) -> Path:
        """Writes the trace as one compressed .npz file, atomically, and returns the path."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **{name: np.array(value) for name, value in vars(self).items()})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Reads what `save` wrote. Nothing in the file is executed: it holds no pickle.

        Raises:
            InputError: a file that is missing, is not a trace, or does not fit together.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"There is no trace file {path}; write one with Trace.save.")
        try:
            with np.load(path, allow_pickle=False) as data:
                return cls(**{field.name: data[field.name] for field in fields(cls)})
        except _UNREADABLE as error:
            message = f"{path} is not a whole trace file ({error}); write it with Trace.save."
            raise InputError(message) from error


def _need(fits: object, sentence: str) -> None:
    """Raises ValueError with the sentence unless `fits`."""
    if not fits:
        raise ValueError(sentence)
