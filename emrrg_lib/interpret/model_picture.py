"""The picture of the whole model, one drawing for every page, with the current part lit.

`model_picture.json` is the drawing: what belongs to which parts, one line an element. An element is
the name of a method of `Canvas` (or of an entry of `_SPECIAL`) with its arguments, places in pixels;
{names} in a text are numbers of the model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.patches import FancyArrowPatch

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.interpret.panels import inch_axes
from emrrg_lib.interpret.picture_canvas import Canvas
from emrrg_lib.interpret.picture_parts import draw_patches, draw_stack, draw_xray
from emrrg_lib.interpret.style import PAPER, Picture

_DRAWING = Path(__file__).with_name("model_picture.json")
_SPECIAL = {"xray": draw_xray, "patches": draw_patches, "stack": draw_stack}

# Part -> what it is and where the paper has it; the keys are the names that `lit` takes.
PARTS: dict[str, str] = {
    "image": "the X-ray, one or two views (§3.2)",
    "patches": "the image cut into square patches (§3.2)",
    "tokens": "patches projected to tokens, cls token in the middle (§3.2)",
    "mamba": "the Vision Mamba block (§3.2, §3.3)",
    "scan": "the selective scan in four directions (§3.2)",
    "partial_lora": "Partial LoRA on X and LoRA on in_proj (§3.3)",
    "projector": "from the encoder's width to the language model's (§3.4)",
    "llm": "the frozen language model with its prompt (§3.4)",
    "hybrid": "the hybrid decoder layer with cross-attention (§3.4, Eq. 1)",
    "gate": "the dynamic gate with warm-up (§3.4, Eq. 2)",
    "report": "the report and its loss (§3.5, Eq. 3)",
}


@dataclass(frozen=True)
class ModelNumbers:
    """The sizes written into the picture; the defaults are the paper's IU X-ray model.

    Attributes:
        image_size: side of the square image in pixels.
        patch_size: side of a patch in pixels.
        encoder_width: d of the encoder.
        encoder_depth: number of Vision Mamba blocks.
        lora_rank: r of both low-rank updates.
        llm_name: shown at the language model.
        llm_width: D of the language model.
        llm_depth: number of decoder layers.
        hybrid_layers: indices of the layers with cross-attention.
    """

    image_size: int = 192
    patch_size: int = 16
    encoder_width: int = 768
    encoder_depth: int = 12
    lora_rank: int = 32
    llm_name: str = "Qwen1.5-1.8B"
    llm_width: int = 2048
    llm_depth: int = 24
    hybrid_layers: tuple[int, ...] = (0, 6, 12, 18)

    def __post_init__(self) -> None:
        if not 1 <= self.patch_size <= self.image_size or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}."
            )
        object.__setattr__(self, "hybrid_layers", tuple(self.hybrid_layers))
        if any(not 0 <= layer < self.llm_depth for layer in self.hybrid_layers):
            raise ValueError(
                f"hybrid_layers {self.hybrid_layers} do not all lie in 0 to {self.llm_depth - 1}."
            )

    @classmethod
    def from_config(cls, config: EMRRGConfig, llm_width: int, llm_depth: int) -> ModelNumbers:
        """The numbers of a preset; the language model's sizes come from the model itself."""
        return cls(
            config.encoder.image_size,
            config.encoder.patch_size,
            config.encoder.embed_dim,
            config.encoder.depth,
            config.partial_lora.r,
            config.llm.name,
            llm_width,
            llm_depth,
            config.llm.hybrid_layers,
        )

    @property
    def side(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of one view."""
        return self.side**2

    @property
    def tokens(self) -> int:
        """Tokens of one view, the cls token among them."""
        return self.patches + 1


def model_picture(
    numbers: ModelNumbers | Mapping[str, Any] | None = None,
    lit: str | Collection[str] | None = None,
    size: tuple[float, float] = (9.0, 6.1),
) -> Picture:
    """Draws EMRRG from X-ray to report (paper Fig. 2), with the paper's section at every stage.

    Args:
        numbers: sizes to write into the picture, as `ModelNumbers` or a mapping with its field
            names.
        lit: part or parts of `PARTS` to show in full colour while the rest fades; None shows
            everything.
        size: of the figure in inches; the drawing is 9.0 × 6.1 and scales as a whole into the
            middle.

    Raises:
        ValueError: if a part or a number does not exist.
    """
    numbers = _numbers(numbers)
    parts = frozenset([lit] if isinstance(lit, str) else lit or ())
    if unknown := sorted(parts - PARTS.keys()):
        raise ValueError(f"There is no part {unknown}; parts are {', '.join(PARTS)}.")
    figure = Picture(size, facecolor=PAPER, alt=_alt(numbers, parts))
    scale = min(size[0] / 9.0, size[1] / 6.1)
    axes = inch_axes(
        figure, (size[0] - 9.0 * scale) / 2, (size[1] - 6.1 * scale) / 2, 9.0 * scale, 6.1 * scale
    )
    axes.set_axis_off()
    _draw(Canvas(axes, parts), numbers)
    axes.set(xlim=(0, 900), ylim=(610, 0))
    _scale_type(axes, scale)
    return figure


def _numbers(numbers: ModelNumbers | Mapping[str, Any] | None) -> ModelNumbers:
    if isinstance(numbers, ModelNumbers):
        return numbers
    known = [field.name for field in fields(ModelNumbers)]
    if unknown := sorted(set(numbers or {}) - set(known)):
        raise ValueError(f"The model picture has no number {unknown}; it takes {', '.join(known)}.")
    return ModelNumbers(**(numbers or {}))


def _scale_type(axes: Any, factor: float) -> None:
    """Texts and lines grow with the drawing, which is measured in pixels of a 9 inch page."""
    for text in axes.texts:
        text.set_fontsize(text.get_fontsize() * factor)
    for line in (*axes.lines, *axes.patches):
        line.set_linewidth(line.get_linewidth() * factor)
        if isinstance(line, FancyArrowPatch):
            line.set_mutation_scale(factor)


def _draw(canvas: Canvas, numbers: ModelNumbers) -> None:
    """Draws every element of the table into its parts; what has no part stays in full colour."""
    known = {name: getattr(numbers, name) for name in dir(numbers) if not name.startswith("_")}
    for parts, elements in json.loads(_DRAWING.read_text(encoding="utf-8")):
        with canvas.part(*parts.split()):
            for name, *given in elements:
                how = given.pop() if isinstance(given[-1], dict) else {}
                given = [item.format(**known) if isinstance(item, str) else item for item in given]
                special = _SPECIAL.get(name)
                draw = partial(special, canvas, numbers) if special else getattr(canvas, name)
                draw(*given, **how)


def _alt(numbers: ModelNumbers, lit: frozenset[str]) -> str:
    """The drawing told in words."""
    layers = ", ".join(str(layer) for layer in numbers.hybrid_layers)
    told = (
        f"The EMRRG model. An X-ray of {numbers.image_size} × {numbers.image_size} pixels is cut "
        f"into {numbers.patches} patches, which become tokens of width {numbers.encoder_width} "
        f"with a cls token in the middle. {numbers.encoder_depth} frozen Vision Mamba blocks scan "
        f"them in four directions; low-rank updates of rank {numbers.lora_rank} on in_proj and on "
        "its X rows are trained. A trained projector leads to the frozen language model "
        f"{numbers.llm_name} with {numbers.llm_depth} layers, of which layers {layers} are "
        "hybrid: cross-attention to the visual tokens is added through a trained gate. "
        "The model writes the report."
    )
    if lit:
        told += f" Lit: {', '.join(PARTS[name] for name in PARTS if name in lit)}."
    return told
