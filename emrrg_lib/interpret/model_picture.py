"""The picture of the whole model (paper Fig. 2), one drawing for every page, with the current part lit.

`model_picture.svg` is the drawing; an SVG editor opens it. Its `$names` are numbers of the model. Every part
of `PARTS` is one group with its name as id; a group that belongs to several parts names them in `data-parts`.

`data/model_picture.png` shows the SVG of `model_picture()`, saved as picture.svg, at double size: `chromium
--headless --hide-scrollbars --window-size=900,620 --force-device-scale-factor=2 --screenshot picture.svg`.
"""

from __future__ import annotations

import html
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.presets import preset

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
    config: EMRRGConfig | None = None,
    llm_width: int = 2048,
    llm_depth: int = 24,
    lit: str | Collection[str] | None = None,
) -> ModelPicture:
    """Draws EMRRG from X-ray to report (paper Fig. 2), with the paper's section at every stage.

    Args:
        config: the sizes to write into the picture; None gives the paper's IU X-ray model.
        llm_width: D of the language model.
        llm_depth: its number of decoder layers.
        lit: part or parts of `PARTS` to show in full colour; the rest turns pale. None shows everything.

    Raises:
        ValueError: if a part does not exist.
    """
    if config is None:
        config = preset("iu-xray")
        config = replace(config, llm=replace(config.llm, name="Qwen1.5-1.8B"))  # as the paper writes it
    lit = {lit} if isinstance(lit, str) else set(lit or ())
    if unknown := sorted(lit - PARTS.keys()):
        raise ValueError(f"There is no part {unknown}; parts are {', '.join(PARTS)}.")
    encoder, title, description = config.encoder, "The EMRRG model.", _in_words(config, llm_depth, lit)
    values = {
        "image_size": encoder.image_size,
        "patch_size": encoder.patch_size,
        "patches": encoder.num_patches,
        "tokens": encoder.num_patches + 1,
        "cell": f"{_SHOWN / encoder.side:.3f}",
        "encoder_width": encoder.embed_dim,
        "encoder_depth": encoder.depth,
        "lora_rank": config.partial_lora.r,
        "llm_name": escape(config.llm.name),
        "llm_width": llm_width,
        "title": title,
        "description": escape(description),
        **_decoder_layers(config.llm.hybrid_layers, llm_depth),
    }
    ElementTree.register_namespace("", _SVG)
    drawing = ElementTree.fromstring(Template(_DRAWING.read_text(encoding="utf-8")).substitute(values))
    for group in drawing.iterfind(f"{{{_SVG}}}g[@class='part']"):
        parts = (group.get("data-parts") or group.get("id") or "").split()
        if lit and lit.isdisjoint(parts):
            group.set("opacity", _PALE)
    return ModelPicture(ElementTree.tostring(drawing, encoding="unicode"), f"{title} {description}")


def _decoder_layers(hybrid_layers: Collection[int], depth: int) -> dict[str, str]:
    """The elements whose places depend on the number of decoder layers.

    Returns:
        "layers": a bar a layer, the first one at the bottom, hybrid layers orange with their index; "lens":
        the corners of the shape from the last hybrid layer to its close-up; "exit": the path to the report.
    """
    x, y, width, height = _STACK
    pitch, bottom, drawn, labelled = min(24.0, height / depth), y + height, [], y + 2 * height
    for layer in range(depth):
        top, hybrid = bottom - (layer + 1) * pitch, layer in hybrid_layers
        drawn.append(
            f'<rect class="{"trained" if hybrid else "frozen"}" x="{x}" y="{top + 0.12 * pitch:.1f}" '
            f'width="{width}" height="{0.76 * pitch:.1f}" rx="1.5"/>'
        )
        if hybrid and labelled - top > 11:  # indices that would touch the one below are left out
            label = f'<text class="orange last" x="{x - 6}" y="{top + pitch / 2 + 3.8:.1f}">{layer}</text>'
            drawn.append(label)
            labelled = top
    last = bottom - (max(hybrid_layers, default=0) + 1) * pitch
    right, middle = x + width, x + width // 2
    lens = f"{right},{last:.1f} {right + 22},{y} {right + 22},{bottom + 40} {right},{last + pitch:.1f}"
    highest = bottom - pitch * depth
    exit_path = f"M{middle} {highest:.1f}V{y - 8}Q{middle} {y - 14} {middle + 6} {y - 14}H744"
    return {"layers": "".join(drawn), "lens": lens if hybrid_layers else "", "exit": exit_path}


def _in_words(config: EMRRGConfig, llm_depth: int, lit: Collection[str]) -> str:
    encoder, layers = config.encoder, ", ".join(str(layer) for layer in config.llm.hybrid_layers)
    words = (
        f"An X-ray of {encoder.image_size} × {encoder.image_size} pixels is cut into {encoder.num_patches} "
        f"patches, which become tokens of width {encoder.embed_dim} with a cls token in the middle. "
        f"{encoder.depth} frozen Vision Mamba blocks scan them in four directions; low-rank updates "
        f"of rank {config.partial_lora.r} on in_proj and on its X rows are trained. A trained projector "
        f"leads to the frozen language model {config.llm.name} with {llm_depth} layers, of which layers "
        f"{layers} are hybrid: cross-attention to the visual tokens is added through a trained gate. "
        "The model writes the report."
    )
    return words + (f" Lit: {', '.join(PARTS[name] for name in PARTS if name in lit)}." if lit else "")
