"""The two variants of a notebook: for students (without solutions) and solved (solutions filled in)."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import nbformat
from tqdm import tqdm

from ..errors import InputError
from ..files import write_text
from .build import NOTEBOOKS, PLANNED, read_twin, run_cells, twins

VARIANTS = ("student", "solved")
_SOLUTION = re.compile(
    r"<details><summary>Solution (\d+)</summary>\s*```python\n(.*?)```\s*(.*?)\s*</details>", re.DOTALL)
_LINK = re.compile(r"```.*?```|`[^`]*`|\]\(([^)#\s:]+)\)", re.DOTALL)  # code holds no links: layers[0](x)


def checks(notebook: nbformat.NotebookNode) -> dict[int, int]:
    """Exercise number → index of its check cell; the stub is the cell before it."""
    found = ((re.match(r"# Check (\d+)\n", cell.source), index)
             for index, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    return {int(match[1]): index for match, index in found if match}


def solutions(notebook: nbformat.NotebookNode) -> dict[int, str]:
    """Exercise number → code of its folded solution."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return {int(number): code.strip() for number, code, _ in _SOLUTION.findall(text)}


def variant(notebook: nbformat.NotebookNode, kind: str) -> nbformat.NotebookNode:
    """Changes a notebook in place: the folded solutions go; "solved" puts their code into the stubs.

    In "solved" the remark after a solution's code stays, as text.

    Raises:
        InputError: kind is not one of `VARIANTS`.
    """
    if kind not in VARIANTS:
        raise InputError(f"there is no variant '{kind}': choose {' or '.join(VARIANTS)}")
    if kind == "solved":
        code, check_cells = solutions(notebook), checks(notebook)
        for number, index in check_cells.items():
            stub = notebook.cells[index - 1]
            stub.source = _answered(stub.source, code[number])
    remark = r"\3" if kind == "solved" else ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _SOLUTION.sub(remark, cell.source).strip()
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    notebook.metadata.pop("jupytext", None)  # a variant has no text twin
    return notebook


def _answered(stub: str, solution: str) -> str:
    """The solution after what the stub prepares: all but the statements that the solution makes anew."""
    lines, new = stub.splitlines(), _names(ast.parse(solution))
    for statement in reversed(ast.parse(stub).body):
        if _names(ast.Module([statement], [])) & new:
            del lines[statement.lineno - 1:statement.end_lineno]
    return "\n".join([*lines, solution]).strip()


def _names(module: ast.Module) -> set[str]:
    """What the statements of a module define."""
    names = set()
    for statement in module.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.add(statement.name)
        elif isinstance(statement, ast.Assign):
            names |= {node.id for target in statement.targets for node in ast.walk(target)
                      if isinstance(node, ast.Name)}
    return names


def build(kind: str, out: Path, execute: bool = False) -> list[Path]:
    """Writes one variant of every notebook into `out`, unexecuted unless `execute`.

    Links between notebooks stay; links to other files of the kit lead there from `out`.

    Raises:
        InputError: no such variant, no notebooks, or `out` holds a notebook with other text: it may be
            somebody's work. Nothing is written then.
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    made = {out / f"{twin.stem}.ipynb": variant(read_twin(twin), kind) for twin in twins()}
    if not made:
        raise InputError(f"there are no notebooks in {NOTEBOOKS}; run this in a checkout of the kit")
    for path, notebook in made.items():
        _turn_links(notebook, out)
        if path.is_file() and _text(nbformat.read(path, as_version=4)) != _text(notebook):
            raise InputError(f"{path} has other text, perhaps somebody's answers; move it away or choose "
                             "another --out")
    for path, notebook in tqdm(made.items(), unit="notebook", disable=not execute):
        if execute:
            out.mkdir(parents=True, exist_ok=True)
            run_cells(notebook, out)
        write_text(path, nbformat.writes(notebook) + "\n")
    return list(made)


def _text(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def _turn_links(notebook: nbformat.NotebookNode, out: Path) -> None:
    def turned(match: re.Match) -> str:
        if match[1] is None or Path(match[1]).stem in PLANNED:
            return match[0]
        return f"]({Path(os.path.relpath(NOTEBOOKS / match[1], out)).as_posix()})"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(turned, cell.source)
