"""The picture of the whole model (paper Fig. 2), one drawing for every page, with the current part lit.

`model_picture.svg` is the drawing; an SVG editor opens it. Its `$names` are numbers of the model. Every part
of `PARTS` is one group with its name as id; a group that belongs to several parts names them in `data-parts`.

`data/model_picture.png` shows the SVG of `model_picture()`, saved as picture.svg, at double size: `chromium
--headless --hide-scrollbars --window-size=900,620 --force-device-scale-factor=2 --screenshot picture.svg`.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from emrrg_lib.config import EMRRGConfig

_DRAWING = Path(__file__).with_name("model_picture.svg")
_SVG = "http://www.w3.org/2000/svg"
_PALE = "0.3"  # opacity of a part that is not lit
_STACK = (160, 352, 56, 174)  # x, y, width, height in pixels: the place of the decoder layers
_SHOWN = 104  # pixels: side of the X-ray that is cut into patches

# Part → its meaning and its place in the paper. The keys are the names that `lit` takes.
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
    """The sizes in the picture; the defaults are those of the paper's IU X-ray model.

    Attributes:
        image_size: side of the square image in pixels.
        patch_size: side of a patch in pixels.
        encoder_width: d of the encoder.
        encoder_depth: number of Vision Mamba blocks.
        lora_rank: r of both low-rank updates.
        llm_name: name of the language model.
        llm_width: D of the language model.
        llm_depth: number of decoder layers.
        hybrid_layers: indices of the layers with cross-attention.

    Raises:
        ValueError: the patches do not fill the image, or a hybrid layer does not exist.
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


@dataclass(frozen=True, repr=False)
class ModelPicture:
    """A drawing that Jupyter shows as SVG: sharp at every size, with `alt` as its title and description.

    Attributes:
        svg: the whole file as text. It needs no font, script or link from outside.
        alt: the drawing in words, also its plain text.
    """

    svg: str
    alt: str

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        """JupyterLab shows no SVG of an untrusted notebook nor an alt text for any: an image has both."""
        return f'<img alt="{html.escape(self.alt)}" src="data:image/svg+xml,{quote(self.svg)}">'

    def __repr__(self) -> str:
        return self.alt


def model_picture(
    numbers: ModelNumbers | Mapping[str, Any] | None = None, lit: str | Collection[str] | None = None
) -> ModelPicture:
    """Draws EMRRG from X-ray to report (paper Fig. 2), with the paper's section at every stage.

    Args:
        numbers: sizes to write into the picture, as `ModelNumbers` or a mapping with its field names.
        lit: part or parts of `PARTS` to show in full colour; the rest turns pale. None shows everything.

    Raises:
        ValueError: if a part or a number does not exist.
    """
    if not isinstance(numbers, ModelNumbers):
        known = [field.name for field in fields(ModelNumbers)]
        if unknown := sorted(set(numbers or {}) - set(known)):
            raise ValueError(f"The model picture has no number {unknown}; it takes {', '.join(known)}.")
        numbers = ModelNumbers(**(numbers or {}))
    lit = {lit} if isinstance(lit, str) else set(lit or ())
    if unknown := sorted(lit - PARTS.keys()):
        raise ValueError(f"There is no part {unknown}; parts are {', '.join(PARTS)}.")
    side = numbers.image_size // numbers.patch_size
    patches, title = side**2, "The EMRRG model."
    description = _in_words(numbers, patches, lit)
    values = {
        **{name: escape(str(value)) for name, value in vars(numbers).items()},
        **{"patches": patches, "tokens": patches + 1, "cell": f"{_SHOWN / side:.3f}"},
        **{"title": title, "description": escape(description), **_decoder_layers(numbers)},
    }
    ElementTree.register_namespace("", _SVG)
    drawing = ElementTree.fromstring(Template(_DRAWING.read_text(encoding="utf-8")).substitute(values))
    for group in drawing.iterfind(f"{{{_SVG}}}g[@class='part']"):
        parts = (group.get("data-parts") or group.get("id") or "").split()
        if lit and lit.isdisjoint(parts):
            group.set("opacity", _PALE)
    return ModelPicture(ElementTree.tostring(drawing, encoding="unicode"), f"{title} {description}")


def _decoder_layers(numbers: ModelNumbers) -> dict[str, str]:
    """The elements whose places depend on the number of decoder layers.

    Returns:
        "layers": a bar a layer, the first one at the bottom, hybrid layers orange with their index; "lens":
        the corners of the shape from the last hybrid layer to its close-up; "exit": the path to the report.
    """
    x, y, width, height = _STACK
    pitch, bottom, drawn, labelled = min(24.0, height / numbers.llm_depth), y + height, [], y + 2 * height
    for layer in range(numbers.llm_depth):
        top, hybrid = bottom - (layer + 1) * pitch, layer in numbers.hybrid_layers
        drawn.append(
            f'<rect class="{"trained" if hybrid else "frozen"}" x="{x}" y="{top + 0.12 * pitch:.1f}" '
            f'width="{width}" height="{0.76 * pitch:.1f}" rx="1.5"/>'
        )
        if hybrid and labelled - top > 11:  # indices that would touch the one below are left out
            label = f'<text class="orange last" x="{x - 6}" y="{top + pitch / 2 + 3.8:.1f}">{layer}</text>'
            drawn.append(label)
            labelled = top
    last = bottom - (max(numbers.hybrid_layers, default=0) + 1) * pitch
    right, middle = x + width, x + width // 2
    lens = f"{right},{last:.1f} {right + 22},{y} {right + 22},{bottom + 40} {right},{last + pitch:.1f}"
    highest = bottom - pitch * numbers.llm_depth
    exit_path = f"M{middle} {highest:.1f}V{y - 8}Q{middle} {y - 14} {middle + 6} {y - 14}H744"
    return {"layers": "".join(drawn), "lens": lens if numbers.hybrid_layers else "", "exit": exit_path}


def _in_words(numbers: ModelNumbers, patches: int, lit: Collection[str]) -> str:
    layers = ", ".join(str(layer) for layer in numbers.hybrid_layers)
    words = (
        f"An X-ray of {numbers.image_size} × {numbers.image_size} pixels is cut into {patches} patches, "
        f"which become tokens of width {numbers.encoder_width} with a cls token in the middle. "
        f"{numbers.encoder_depth} frozen Vision Mamba blocks scan them in four directions; low-rank updates "
        f"of rank {numbers.lora_rank} on in_proj and on its X rows are trained. A trained projector leads to "
        f"the frozen language model {numbers.llm_name} with {numbers.llm_depth} layers, of which layers "
        f"{layers} are hybrid: cross-attention to the visual tokens is added through a trained gate. "
        "The model writes the report."
    )
    return words + (f" Lit: {', '.join(PARTS[name] for name in PARTS if name in lit)}." if lit else "")
