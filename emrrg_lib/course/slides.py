"""One deck of slides a notebook, and the handout: `make slides` writes into runs/slides.

Cells with the tag "slide" begin a slide and those with "slide-part" continue it; both are shown whole. A
notebook without such tags gives of each section the heading, the first paragraphs, the formulas and the
pictures, and of the exercises the first.
"""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path

import nbformat
from nbconvert.filters import Highlight2HTML, ansi2html, markdown2html
from nbformat import NotebookNode

from emrrg_lib.course.build import COPIES, NOTEBOOKS, copy_linked, turn_links
from emrrg_lib.course.handout import write_handout
from emrrg_lib.files import KIT, write_text
from emrrg_lib.interpret.page_example import render

PARTS = {
    "reveal.js": ("sphinx_revealjs", "_static/revealjs"),
    "mathjax": ("sphinx-mathjax-offline", "static/mathjax"),
}
_FORMULA = re.compile(r"^\$\$.+?\$\$", re.DOTALL | re.MULTILINE)
_EXERCISE = re.compile(r"^### Exercise.+?(?=^<details|\Z)", re.DOTALL | re.MULTILINE)
_LEFT_OUT = re.compile(r"##+ (Exercise|Quiz|Further reading|Where to go next)")
_LAST = re.compile(r"\*\*(Contents|Paper|Quiz)")  # the paragraphs before it are the ideas
_NO_IDEA = re.compile(r"[>`<!]|\| \| \|")  # quotes, code, pictures, the table of what a notebook needs
_SLIDE, _PICTURE, _ROW = 1000, 670, 55  # the room of a slide, a picture and a table's row, in characters
_MOST_OUTPUTS = 2  # of a section


def build_slides(out: Path) -> list[Path]:
    """Writes a deck for each stored notebook, an index, the handout, and the scripts that they need."""
    decks = {}
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        copy_linked(turn_links(notebook, NOTEBOOKS, COPIES), out / COPIES)
        for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
            cell.source = re.sub(r"\]\((\d\d_\w+)\.ipynb", r"](\1.html", cell.source)
        slides, title = list(slides_of(notebook)), notebook.cells[0].source.splitlines()[0].lstrip("# ")
        deck = render("slides.html", Path(__file__).parent, title=title, slides=slides)
        decks[title] = write_text(out / f"{path.stem}.html", deck)
    for name, (package, inside) in PARTS.items():
        shutil.copytree(_package(package) / inside, out / name, dirs_exist_ok=True)
    handout = write_handout(out / "handout.pdf")
    lines = "".join(f"<li><a href='{path.name}'>{title}</a></li>" for title, path in decks.items())
    index = f"<!DOCTYPE html><meta charset='utf-8'><title>Slides</title><h1>Slides</h1><ul>{lines}</ul>"
    write_text(out / "index.html", f"{index}<p><a href='{handout.name}'>The handout</a></p>")
    return list(decks.values())


def _package(name: str) -> Path:
    """The folder of an installed package; a name with a hyphen cannot be imported by a statement."""
    return Path(importlib.import_module(name).__path__[0])


def slides_of(notebook: NotebookNode) -> Iterator[str]:
    """The HTML of each slide."""
    tagged = any("slide" in cell.metadata.get("tags", ()) for cell in notebook.cells)
    slide: list[str] = []
    for begins, html in _tagged(notebook) if tagged else _sections(notebook):
        if begins and slide:
            yield "\n".join(slide)
            slide = []
        slide.append(html)
    if slide:
        yield "\n".join(slide)


def _html(text: str) -> str:
    """Markdown as HTML; the signs that link a heading to itself are left out."""
    return re.sub(r'<a class="anchor-link".*?</a>', "", markdown2html(text))


def _tagged(notebook: NotebookNode) -> Iterator[tuple[bool, str]]:
    """Whether a part begins a slide, and its HTML, of every tagged cell."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", ())
        if "slide" in tags or "slide-part" in tags:
            code = cell.cell_type == "code"
            yield "slide" in tags, Highlight2HTML()(cell.source) if code else _html(cell.source)
            yield from ((False, html) for html in _outputs(cell))


def _sections(notebook: NotebookNode) -> Iterator[tuple[bool, str]]:
    """The same of the sections of a notebook without tags; what does not fit begins a slide."""
    heading, used, shown, room = "", 0, True, 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for html in _outputs(cell, pictures=True) if shown and room else ():
                if heading.startswith("# ") and "<table" in html:
                    continue
                room, size = room - 1, _ROW * html.count("<tr") if "<table" in html else _PICTURE
                again = _html(f"## {heading.lstrip('# ')}").replace("<h2", '<h2 class="again"', 1)
                begins, used = used + size > _SLIDE, size + (used if used + size <= _SLIDE else 0)
                yield begins, (again if begins else "") + html
            continue
        for section in re.split(r"^(?=#{1,3} )", cell.source, flags=re.MULTILINE):
            if section.startswith("#"):
                heading, _, section = section.partition("\n")
                shown, room, used = not _LEFT_OUT.match(heading), _MOST_OUTPUTS, _SLIDE
                if heading == "## Exercises":
                    yield True, _first_exercise(notebook)
                if shown and (text := _ideas(section)):
                    used = len(text)
                    yield True, _html(f"{heading}\n\n{text}")


def _ideas(text: str) -> str:
    """The first paragraphs, lists and tables of a section, and its formulas."""
    kept: list[str] = []
    for block in text.split("<details")[0].strip().split("\n\n"):
        if _LAST.match(block) or len("".join(kept)) + len(block) > _SLIDE:
            break
        if not _NO_IDEA.match(block):
            kept.append(block)
    if kept:
        kept[-1] = re.sub(":$", ".", kept[-1])  # it announces what is left out
    formulas = [each for each in _FORMULA.findall(text) if not any(each in block for block in kept)]
    return "\n\n".join(kept + formulas)


def _first_exercise(notebook: NotebookNode) -> str:
    """The task of the first exercise and the cell to complete."""
    cells = iter(notebook.cells)
    found = next(text for cell in cells if (text := _EXERCISE.search(cell.source)))
    return _html(found[0]) + Highlight2HTML()(next(cells).source)


def _outputs(cell: NotebookNode, pictures: bool = False) -> Iterator[str]:
    """The HTML of each output of a code cell; `pictures` leaves printed text out."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/html" in data:
            yield data["text/html"]
        elif "image/svg+xml" in data:
            yield data["image/svg+xml"]
        elif "image/png" in data:
            alt = output.metadata.get("image/png", {}).get("alt", "")
            yield f'<img alt="{escape(alt)}" src="data:image/png;base64,{data["image/png"]}">'
        elif "text/markdown" in data:
            yield _html(data["text/markdown"])
        elif not pictures:
            yield f"<pre>{ansi2html(output.get('text') or data.get('text/plain', ''))}</pre>"


if __name__ == "__main__":
    for deck in build_slides(KIT / "runs" / "slides"):
        print(f"wrote {deck.relative_to(KIT)}")
