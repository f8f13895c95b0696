"""The cell for Colab: one and the same in every notebook, without the library, without effect elsewhere.

Nothing here runs on Colab: the cell and the script are parsed, and the cell runs where it does nothing.
"""

import ast
import os
import sys
from importlib.metadata import version

import pytest

pytest.importorskip("jupytext", reason="jupytext is not installed (extra dev)")

from emrrg_lib.course import colab  # noqa: E402
from emrrg_lib.course.build import read_twin, twins  # noqa: E402


def first_code(twin):
    return next(cell for cell in read_twin(twin).cells if cell.cell_type == "code")


def imported(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_every_notebook_begins_with_the_same_folded_cell():
    cells = [first_code(twin) for twin in twins()]
    assert len({cell.source for cell in cells}) == 1
    assert all(cell.metadata["jupyter"]["source_hidden"] for cell in cells)
    assert all(cell.metadata["tags"] == ["remove-cell"] for cell in cells)  # not in the book


def test_cell_and_script_need_no_library():
    script = open(colab.__file__, encoding="utf-8").read()
    for source in (first_code(twins()[0]).source, script):
        assert set(imported(source)) <= set(sys.stdlib_module_names)


def test_elsewhere_the_cell_does_nothing(monkeypatch):
    for name in ("system", "chdir"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("the cell acts outside of Colab"))
    before = list(sys.path)
    exec(first_code(twins()[0]).source, {})
    assert sys.path == before


def test_on_colab_it_fetches_installs_and_finds_the_kit(monkeypatch):
    called, path = [], list(sys.path)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setattr(os, "system", called.append)
    monkeypatch.setattr(os, "chdir", called.append)
    exec(first_code(twins()[0]).source, {})
    fetch, install, folder = called
    assert fetch.startswith("git clone") and fetch.split()[-1] == path[0] == "/content/kit"
    script = f"{path[0]}/emrrg_lib/course/colab.py"
    assert install.endswith(script) and colab.__file__.endswith(script.removeprefix(path[0]))
    assert folder == "/content/kit/notebooks"


def test_torch_stays_as_it_is(tmp_path):
    pip = colab.command(tmp_path / "keep.txt")
    assert (tmp_path / "keep.txt").read_text() == f"torch=={version('torch')}\n"
    assert pip[pip.index("-c") + 1] == str(tmp_path / "keep.txt")
    assert pip[-2:] == ["-e", str(colab.KIT)] and (colab.KIT / "pyproject.toml").is_file()
