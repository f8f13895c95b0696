"""Pictures and pages of a model at work; they take a `Trace` or arrays, never a model."""

from emrrg_lib.interpret.figures import attention_overlay, gate_strip, loss_curve, study_figure
from emrrg_lib.interpret.model_picture import PARTS, model_picture
from emrrg_lib.interpret.style import Picture
from emrrg_lib.interpret.words import naming_words
