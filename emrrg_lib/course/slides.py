"""One deck of slides a notebook, and the two-page handout: `make slides` writes into runs/slides.

Cells with the tag "slide" begin a slide and those with "slide-part" continue it; both are shown whole. A
notebook without such tags gives of each section the heading, the first paragraphs, the formulas and the
pictures, and of the exercises the first. The handout has the picture of the model and its formulas, then the
letters and their shapes.
"""

from __future__ import annotations

import importlib
import re
import shutil
import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path

import nbformat
from matplotlib import image as pictures
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from nbconvert.filters import Highlight2HTML, ansi2html, markdown2html
from nbformat import NotebookNode

from emrrg_lib.course.build import COPIES, NOTEBOOKS, copy_linked, turn_links
from emrrg_lib.course.notebook import ROWS
from emrrg_lib.data.study import read_table
from emrrg_lib.files import KIT, atomic_path, write_text
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
PAGE = (8.27, 11.69)  # A4, in inches


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
        home = Path(importlib.import_module(package).__path__[0])  # a name with a hyphen needs this function
        shutil.copytree(home / inside, out / name, dirs_exist_ok=True)
    handout = write_handout(out / "handout.pdf")
    lines = "".join(f"<li><a href='{path.name}'>{title}</a></li>" for title, path in decks.items())
    index = f"<!DOCTYPE html><meta charset='utf-8'><title>Slides</title><h1>Slides</h1><ul>{lines}</ul>"
    write_text(out / "index.html", f"{index}<p><a href='{handout.name}'>The handout</a></p>")
    return list(decks.values())


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


def write_handout(path: Path) -> Path:
    """Writes the PDF, A4, two pages; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, PdfPages(partial, metadata={"Title": "EMRRG on two pages"}) as pdf:
        for page in (_model_page(), _letters_page()):
            pdf.savefig(page)
    return path


def _model_page() -> Figure:
    page = Figure(figsize=PAGE)
    page.text(0.07, 0.95, "EMRRG on two pages", fontsize=20, weight="bold")
    page.text(0.07, 0.93, "From a chest X-ray to a report. Paper: arXiv 2510.16776", fontsize=10)
    axes = page.add_axes((0.07, 0.51, 0.86, 0.41))
    axes.imshow(pictures.imread(KIT / "data" / "model_picture.png"), interpolation="lanczos")
    axes.axis("off")
    formulas = read_table(Path(__file__).with_name("formulas.csv"), ("name", "formula", "remark"))
    for number, (name, formula, remark) in enumerate(formulas.to_numpy()):
        y = 0.475 - 0.072 * number
        page.text(0.07, y, name, fontsize=9.5, weight="bold")
        page.text(0.30, y, formula, fontsize=13)
        page.text(0.30, y - 0.026, remark, fontsize=8.5, color="#444444")
    page.text(0.07, 0.03, "Not for clinical use.", fontsize=8)
    return page


def _letters_page() -> Figure:
    page = Figure(figsize=PAGE)
    page.text(0.06, 0.95, "The letters, their names in the code and their shapes", fontsize=14, weight="bold")
    columns = {"paper": 0.06, "name in the code": 0.14, "shape": 0.41, "meaning": 0.6}
    for name, x in columns.items():
        page.text(x, 0.925, name, fontsize=8.5, weight="bold")
    for number, row in enumerate(ROWS):
        y = 0.91 - 0.87 * number / len(ROWS)
        cells = (row.letter, row.code, row.shape.replace("*", "·"), textwrap.fill(row.meaning, 61))
        for x, text, font in zip(columns.values(), cells, ("", "monospace", "", ""), strict=True):
            style = {"family": font, "fontsize": 6.2} if font else {"fontsize": 6.8, "linespacing": 0.95}
            page.text(x, y, text.replace("$", r"\$"), va="top", **style)
    return page


if __name__ == "__main__":
    for deck in build_slides(KIT / "runs" / "slides"):
        print(f"wrote {deck.relative_to(KIT)}")
