"""The picture of the model: one group a part, the model's numbers in it, lit by part, told in words."""

from __future__ import annotations

import re
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from IPython.core.interactiveshell import InteractiveShell

from emrrg_lib.config import EMRRGConfig, EncoderConfig, LLMConfig, PartialLoRAConfig
from emrrg_lib.interpret.model_picture import PARTS, model_picture

SVG = "{http://www.w3.org/2000/svg}"
SIZES = EncoderConfig(image_size=96, patch_size=8, embed_dim=128, depth=4)


def small(*hybrid_layers, llm_depth=4):
    """The arguments for a small model."""
    llm = LLMConfig(name="A <small> & open LLM", hybrid_layers=hybrid_layers)
    config = EMRRGConfig(encoder=SIZES, partial_lora=PartialLoRAConfig(r=8), llm=llm)
    return {"config": config, "llm_width": 192, "llm_depth": llm_depth}


def drawing(*given, **how):
    """The picture, parsed: raises where it is not well-formed XML."""
    return ElementTree.fromstring(model_picture(*given, **how).svg)


def texts(drawing):
    return [" ".join("".join(text.itertext()).split()) for text in drawing.iter(f"{SVG}text")]


def pale(drawing):
    """The groups that are not lit, by their parts."""
    groups = drawing.iterfind(f"{SVG}g[@opacity]")
    return {group.get("data-parts") or group.get("id") for group in groups}


def test_every_part_has_a_group():
    groups = {group.get("id") for group in drawing().iterfind(f"{SVG}g[@class='part']")}
    assert groups - {None} == set(PARTS)


def test_lit_parts_stay_strong_and_the_others_turn_pale():
    assert pale(drawing()) == set()
    shown = pale(drawing(lit="gate"))
    assert shown & PARTS.keys() == PARTS.keys() - {"gate"}
    assert "llm hybrid gate" not in shown and "image patches tokens" in shown  # a frame shines with any part
    assert pale(drawing(lit=["mamba", "scan"])) & PARTS.keys() == PARTS.keys() - {"mamba", "scan"}
    assert "Lit: the dynamic gate" in model_picture(lit="gate").alt and "Lit" not in model_picture().alt


def test_the_numbers_of_the_model_are_written_into_it():
    shown = texts(drawing(**small(1, 3)))
    for expected in (
        "96 × 96 × 3",
        "144 patches of 8 × 8",
        "145 × 128, position added",
        "Vision Mamba encoder, 4 blocks",
        "Partial LoRA r 8",
        "to width 192",
        "Language model with hybrid layers: A <small> & open LLM",
    ):
        assert expected in shown
    assert "$" not in model_picture(**small(1, 3)).svg


def test_decoder_layers_are_bars_and_hybrid_ones_carry_their_index():
    (stack,) = drawing(**small(1, 3)).iterfind(f"{SVG}g[@data-parts='llm hybrid']")
    assert [bar.get("class") for bar in stack.iter(f"{SVG}rect")] == ["frozen", "trained"] * 2
    assert [label.text for label in stack.iter(f"{SVG}text")] == ["1", "3"]
    many = drawing(**small(*range(80), llm_depth=80))
    (stack,) = many.iterfind(f"{SVG}g[@data-parts='llm hybrid']")
    heights = [float(label.get("y")) for label in stack.iter(f"{SVG}text")]
    assert all(below - above > 10.8 for below, above in zip(heights, heights[1:], strict=False))


def test_a_model_without_hybrid_layers_is_drawn_too():
    assert drawing(**small()).find(f".//{SVG}polygon").get("points") == ""


def test_the_default_is_the_papers_model():
    assert {"192 × 192 × 3", "145 × 768, position added", "Partial LoRA r 32"} <= set(texts(drawing()))
    assert "Qwen1.5-1.8B with 24 layers, of which layers 0, 6, 12, 18" in model_picture().alt


def test_title_and_description_say_what_is_drawn():
    picture = model_picture(**small(1, 3), lit="report")
    root = ElementTree.fromstring(picture.svg)
    title, description = root.find(f"{SVG}title").text, root.find(f"{SVG}desc").text
    assert root.get("role") == "img" and picture.alt == f"{title} {description}"
    assert "cut into 144 patches" in description and "layers 1, 3 are hybrid" in description


def test_it_needs_nothing_from_outside():
    svg = model_picture().svg
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\")|@import|@font-face|<script|<image", svg)
    assert all(target.startswith("#emrrg-") for target in re.findall(r'href="([^"]*)"', svg))
    named = set(re.findall(r'\bid="([^"]*)"', svg))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', svg)) <= named


def test_jupyter_shows_it_as_an_image_with_its_text():
    picture = model_picture()
    data, _ = InteractiveShell().display_formatter.format(picture)
    image = ElementTree.fromstring(data.pop("text/html").replace('">', '"/>')).attrib
    assert image["alt"] == picture.alt
    assert unquote(image["src"]).removeprefix("data:image/svg+xml,") == picture.svg
    assert data == {"image/svg+xml": picture.svg, "text/plain": picture.alt}


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="no part"):
        model_picture(lit=["gates"])
