"""Makes notebooks from their text twins: executed for the course, or as a variant for a class.

`NAME.py` in `TWINS` (jupytext, percent format) is the source of `notebooks/NAME.ipynb`.

* `make notebooks`, or `python -m emrrg_lib.course.build [TWIN ...]`, executes the twins and stores the
  outputs. Details that change from machine to machine are left out, so a new execution gives a small diff.
* `emrrg course build` writes a variant: "student" has no solutions, "solved" has them in the stubs.
"""

from __future__ import annotations

import ast
import base64
import io
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from symtable import symtable
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image
from tqdm import tqdm

from emrrg_lib.files import KIT, TINY_DIR, InputError, write_text

NOTEBOOKS = KIT / "notebooks"
TWINS = NOTEBOOKS / "twins"  # the folder of the text twins; notebooks/jupytext.toml names it too
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
COPIES = "kit"  # folder of a variant: the files of the kit that its notebooks link to
VARIANTS = ("student", "solved")
COLOURS = 224  # of a stored picture; 32 true greys join them
_SOLUTION = re.compile(
    r"<details><summary>Solution (\d+)</summary>\s*```python\n(.*?)```\s*(.*?)\s*</details>", re.DOTALL
)
_LINK = re.compile(
    r"```.*?```|`[^`]*`|\]\(([^)#\s:]+)(?=[)#])", re.DOTALL
)  # layers[0](x) in code is not a link
_PNG = re.compile(r"(data:image/png;base64,)([A-Za-z0-9+/=]+)")


def twins() -> list[Path]:
    """The text twins `NN_name.py` in the order of the course."""
    return sorted(TWINS.glob("[0-9][0-9]_*.py"))


def read_twin(twin: Path) -> nbformat.NotebookNode:
    """The notebook of a text twin without outputs; a cell's id is its number, so ids never change.

    Code that the book leaves out is folded in JupyterLab.
    """
    notebook = jupytext.read(twin)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02}"
        if "remove-cell" in cell.metadata.get("tags", ()):
            cell.metadata["jupyter"] = {"source_hidden": True}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})  # the same from every machine
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def checks(notebook: nbformat.NotebookNode) -> dict[int, int]:
    """Exercise number → index of its check cell; the stub is the cell before it."""
    found = (
        (re.match(r"# Check (\d+)\n", cell.source), index)
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
    )
    return {int(match[1]): index for match, index in found if match}


def solutions(notebook: nbformat.NotebookNode) -> dict[int, str]:
    """Exercise number → code of its folded solution."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return {int(number): code.strip() for number, code, _ in _SOLUTION.findall(text)}


def variant(notebook: nbformat.NotebookNode, kind: str) -> nbformat.NotebookNode:
    """Removes the folded solutions of a notebook in place; "solved" puts their code into the stubs.

    In "solved" the remark after the code of a solution stays as text.

    Raises:
        InputError: `kind` is not in `VARIANTS`.
    """
    if kind not in VARIANTS:
        raise InputError(f"there is no variant '{kind}': choose {' or '.join(VARIANTS)}")
    if kind == "solved":
        code, check_cells = solutions(notebook), checks(notebook)
        for number, index in check_cells.items():
            stub = notebook.cells[index - 1]
            others = without(stub.source, _names(code[number]))  # what the solution does not define anew
            stub.source = f"{others}\n{code[number]}".strip()
    remark = r"\3" if kind == "solved" else ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _SOLUTION.sub(remark, cell.source).strip()
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    return notebook


def without(code: str, names: set[str]) -> str:
    """Code without its top-level statements that assign one of the names."""
    lines = code.splitlines()
    for statement in reversed(ast.parse(code).body):
        if _names("\n".join(lines[statement.lineno - 1 : statement.end_lineno])) & names:
            del lines[statement.lineno - 1 : statement.end_lineno]
    return "\n".join(lines)


def _names(code: str) -> set[str]:
    """The names that code assigns at its top level."""
    return {symbol.get_name() for symbol in symtable(code, "", "exec").get_symbols() if symbol.is_assigned()}


def build(kind: str, out: Path, execute: bool = False, sources: Sequence[Path] | None = None) -> list[Path]:
    """Writes one variant of every notebook into `out`, unexecuted unless `execute`.

    Links between notebooks stay. What else they link to is copied into the folder `COPIES` of `out`, so that
    `out` can be handed out alone.

    Args:
        sources: the text twins; None takes all of `TWINS`.

    Raises:
        InputError: the variant or the notebooks do not exist, or `out` holds a notebook with other text,
            which may be somebody's work. Nothing is written then.
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    sources = twins() if sources is None else sources
    if not sources:
        raise InputError(f"there are no twins in {TWINS}; run this in a checkout of the kit")
    made = {out / f"{twin.stem}.ipynb": variant(read_twin(twin), kind) for twin in sources}
    linked: dict[str, Path] = {}
    for (path, notebook), twin in zip(made.items(), sources, strict=True):
        linked |= turn_links(notebook, notebook_of(twin).parent, COPIES)
        if path.is_file() and _text(nbformat.read(path, as_version=4)) != _text(notebook):
            raise InputError(
                f"{path} has other text, perhaps somebody's answers; move it away or choose another --out"
            )
    for path, notebook in tqdm(made.items(), unit="notebook", disable=not execute):
        if execute:
            out.mkdir(parents=True, exist_ok=True)
            run_cells(notebook, out)
        write_text(path, nbformat.writes(notebook) + "\n")
    copy_linked(linked, out / COPIES)
    return list(made)


def _text(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def turn_links(notebook: nbformat.NotebookNode, home: Path, copies: str) -> dict[str, Path]:
    """Turns the links of a notebook in `home` to files of the kit into links to their copies.

    Returns:
        Path inside the kit → the file.
    """
    found = {}

    def turned(match: re.Match) -> str:
        if match[1] is None or re.fullmatch(r"\d\d_\w+\.ipynb", match[1]):
            return match[0]
        file = (home / match[1]).resolve()
        inside = file.relative_to(home.parent.resolve()).as_posix()
        found[inside] = file
        return f"]({copies}/{inside}"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(turned, cell.source)
    return found


def copy_linked(linked: Mapping[str, Path], folder: Path) -> None:
    """Copies the files and folders of `turn_links` into `folder`."""
    for inside, file in linked.items():
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            shutil.copytree(file, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(file, target)


def kernel_environment() -> dict[str, str]:
    """Variables of a kernel: this checkout of the kit, the shipped run (or EMRRG_RUN), and no network."""
    paths = [str(KIT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "EMRRG_RUN": str(TINY_DIR / "run"),
        "HF_HUB_OFFLINE": "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
    }


def run_cells(notebook: nbformat.NotebookNode, folder: Path, timeout: int = 300) -> nbformat.NotebookNode:
    """Executes a notebook in place, in `folder`, with this checkout of the kit and the shipped run.

    The variable EMRRG_RUN may name another run folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
        nbclient.exceptions.CellTimeoutError: a cell took longer than `timeout` seconds.
    """
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=kernel_environment())
    return tidy(notebook)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Removes widgets (each has a static twin) and the machine's versions; gives pictures a palette."""
    notebook.metadata.pop("widgets", None)  # a code host shows nothing at all where their state is missing
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if not any("widget" in kind for kind in output.get("data", {}))
            ]
        for output in cell.get("outputs", []):
            _shrink(output.get("data", {}))
    return notebook


def _shrink(data: dict[str, Any]) -> None:
    """Gives the PNGs of an output a palette, inside HTML too, which halves their size.

    The eye sees no difference.
    """
    if "image/png" in data:
        data["image/png"] = _with_palette(data["image/png"])
    if "text/html" in data:
        data["text/html"] = _PNG.sub(lambda match: match[1] + _with_palette(match[2]), data["text/html"])


def _with_palette(png: str) -> str:
    """A PNG in base64 with a palette of 256 colours."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image = image.convert("RGB")
    # the default method drops the rare colours of a colour bar; this one keeps them, but tints greys
    chosen = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1).getpalette()
    greys = [round(255 * i / (255 - COLOURS)) for i in range(256 - COLOURS) for _ in "RGB"]
    palette = Image.new("P", (1, 1))
    palette.putpalette(chosen[: 3 * COLOURS] + greys)
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def notebook_of(twin: Path) -> Path:
    """The notebook of a twin: in `notebooks/`, or beside a twin that is not of the course."""
    return (NOTEBOOKS if twin.resolve().parent == TWINS else twin.parent) / f"{twin.stem}.ipynb"


def execute(twin: Path) -> Path:
    """Makes the executed notebook of a twin. An error of `run_cells` leaves the old file."""
    path = notebook_of(twin)
    notebook = run_cells(read_twin(twin), path.parent)
    return write_text(path, nbformat.writes(notebook) + "\n")


def main(names: list[str]) -> None:
    """Executes the named twins, or all."""
    for twin in [Path(name) for name in names] or twins():
        print("executing", twin.name, flush=True)
        path = execute(twin)
        print(f"wrote {path.name}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
