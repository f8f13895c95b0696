"""What the page of a run shows of one study: pictures, texts, labels, scores, overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from emrrg_lib.interpret.describe import describe_place, widest_layer
from emrrg_lib.interpret.naming import naming_words
from emrrg_lib.interpret.trace import Trace

Labels = Mapping[str, int | None]  # observation -> 1, 0, -1 (uncertain) or None


@dataclass(frozen=True)
class Overlay:
    """Where one word looked, ready to be drawn.

    Attributes:
        caption: the word, as it is printed.
        weights: (view, rows, cols) attention, see `Trace.word_attention`.
        note: a few words under it, such as the layer.
        masks: (view, H, W) bool, the finding's true place, drawn as an outline; None where it is
            not known.
    """

    caption: str
    weights: np.ndarray
    note: str = ""
    masks: np.ndarray | None = None

    @property
    def alt(self) -> str:
        """The picture in words."""
        return f"The word “{self.caption}” looks {describe_place(np.asarray(self.weights))}."


@dataclass(frozen=True)
class SystemReport:
    """One system's report: its name, text, labels read from it (None: there are none), scores."""

    name: str
    text: str
    labels: Labels | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """One study of the page.

    Attributes:
        id: the study's name.
        images: one array a view, (H, W), (H, W, 3) or (3, H, W).
        reference: the radiologist's report.
        systems: the generated reports to compare with it, one or two, the same on all studies.
        labels: the reference's labels; None where there are none.
        trace: the record of the first system's report, for the gate strip.
        overlays: the words of it whose attention is drawn.
    """

    id: str
    images: Sequence[np.ndarray]
    reference: str
    systems: Sequence[SystemReport]
    labels: Labels | None = None
    trace: Trace | None = None
    overlays: Sequence[Overlay] = ()


def overlays_from_trace(
    trace: Trace, layer: int | None = None, limit: int = 3,
    masks: Mapping[str, np.ndarray] | None = None
) -> tuple[Overlay, ...]:
    """Overlays of the words that name a finding, affirmed ones first.

    Args:
        trace: the record of one generated report.
        layer: position on the trace's layer axis; by default the layer whose gate opens widest on
            average.
        limit: how many words at most.
        masks: observation -> (view, H, W) bool, the true places; used for words said to be present.
    """
    layer = widest_layer(trace) if layer is None else layer
    return tuple(
        Overlay(
            word.caption, trace.word_attention(word.word_index, layer),
            f"layer {trace.layer_ids[layer]}",
            None if word.negated else (masks or {}).get(word.finding)
        )
        for word in naming_words(trace, limit)
    )
