"""The course as a website that needs no network: `make book` writes runs/book/index.html.

Sphinx with MyST-NB shows the stored outputs of `notebooks/`; `.book/` holds settings, style, the first page
and that of the explorers. What the notebooks link to becomes a page or a copy: nothing leads out of the site.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import nbformat

from emrrg_lib.course.build import COPIES, NOTEBOOKS, copy_linked, turn_links
from emrrg_lib.course.notebook import SHIPPED_RUN, glossary
from emrrg_lib.course.slides import write_handout
from emrrg_lib.files import KIT, InputError, write_text
from emrrg_lib.run.explore import write_explorers

SETTINGS = KIT / ".book"


def build_book(out: Path) -> Path:
    """Writes the website into `out`, which is emptied first; returns its first page.

    Raises:
        InputError: Sphinx has a warning, such as a link that leads nowhere; all of them are told.
    """
    from sphinx.application import Sphinx

    with tempfile.TemporaryDirectory() as folder:
        source, extra, log = Path(folder) / "source", Path(folder) / "extra", Path(folder) / "warnings"
        _write_source(source)
        write_handout(extra / "handout.pdf")
        write_explorers(SHIPPED_RUN, "1", out=extra / "explorers_page.html")
        overrides = {"html_extra_path": [str(extra)], "html_static_path": [str(SETTINGS / "course.css")]}
        shutil.rmtree(out, ignore_errors=True)
        with log.open("w+", encoding="utf-8") as told:
            doctrees = Path(folder) / "doctrees"
            app = Sphinx(source, SETTINGS, out, doctrees, "html", overrides, status=None, warning=told)
            app.build()
            told.seek(0)
            if warnings := told.read().replace(f"{folder}/source/", ""):
                raise InputError(f"the book has faults:\n{warnings}")
    return out / "index.html"


def anchor(heading: str) -> str:
    """The anchor that JupyterLab gives a heading, to which the contents of the notebooks link."""
    return heading.replace(" ", "-")


def _write_source(source: Path) -> None:
    """The source folder of Sphinx: notebooks, and pages and copies of what they link to."""
    source.mkdir()
    frame = (SETTINGS / "frame.html").read_text(encoding="utf-8")  # the explorers of one study
    linked = {"data/model_picture.png": KIT / "data" / "model_picture.png"}
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        linked |= turn_links(notebook, NOTEBOOKS, COPIES)
        for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
            cell.source = re.sub(rf"(\]\({COPIES}/[^)#\s]+\.py)\)", r"\1.md)", cell.source)
            if path.stem.startswith("07_") and cell.source.startswith("## Exercises"):
                cell.source = f"## The explorers, here\n\n{frame}\n{cell.source}"
        write_text(source / path.name, nbformat.writes(notebook))
    copy_linked(linked, source / COPIES)
    for file in (source / COPIES).rglob("*.py"):
        page = f"# {file.relative_to(source / COPIES)}\n\n```{{literalinclude}} {file.name}\n:linenos:\n```\n"
        write_text(file.with_name(f"{file.name}.md"), page)
    for readme in (source / COPIES).rglob("README.md"):
        write_text(readme, _without_links(readme))
    shutil.copyfile(SETTINGS / "index.md", source / "index.md")
    write_text(source / "explorers.md", (SETTINGS / "explorers.md").read_text(encoding="utf-8") + frame)
    write_text(source / "glossary.md", f"# Glossary\n\n{glossary()}\n")
    write_text(source / "teaching.md", _without_links(NOTEBOOKS / "README.md"))


def _without_links(readme: Path) -> str:
    """The text of a README, of its links only those to web pages."""
    return re.sub(r"(?<!!)\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", readme.read_text(encoding="utf-8"))


if __name__ == "__main__":
    print(f"open {build_book(KIT / 'runs' / 'book')}")
