"""Pictures and pages of a model at work; they take a `Trace` or arrays, never a model."""

from emrrg_lib.interpret.figures import attention_overlay, gate_strip, loss_curve, study_figure, word_grid
from emrrg_lib.interpret.matching import Mark, Match, matching_spans, shared_marks
from emrrg_lib.interpret.model_picture import PARTS, ModelNumbers, model_picture
from emrrg_lib.interpret.page_example import Example, Overlay, SystemReport, overlays_from_trace
from emrrg_lib.interpret.style import Picture
from emrrg_lib.interpret.words import NamingWord, describe_trace, naming_words
from emrrg_lib.trace import Trace, Word

__all__ = [
    "PARTS",
    "Example",
    "Mark",
    "Match",
    "ModelNumbers",
    "NamingWord",
    "Overlay",
    "Picture",
    "SystemReport",
    "Trace",
    "Word",
    "attention_overlay",
    "describe_trace",
    "gate_strip",
    "loss_curve",
    "matching_spans",
    "model_picture",
    "naming_words",
    "overlays_from_trace",
    "shared_marks",
    "study_figure",
    "word_grid",
]
