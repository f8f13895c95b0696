"""JupyterLab with jupytext: opening and saving a notebook leaves its text twin as it is, to the byte."""

import json
import re
import shutil

import pytest

from emrrg_lib.course.build import KERNEL, NOTEBOOKS, TWINS, notebook_of, read_twin, twins

contents = pytest.importorskip("jupytext.sync_contentsmanager", reason="an older jupytext has it elsewhere")


def saved_in_lab(root, twin):
    """Opens and saves the notebook of a twin as JupyterLab does, with its own metadata."""
    from jupyter_server.services.contents.largefilemanager import LargeFileManager

    manager = contents.build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(root))
    path = f"notebooks/{twin.stem}.ipynb"
    model = manager.get(path)
    model["content"]["metadata"] |= {
        "kernelspec": KERNEL | {"display_name": "Python 3 (ipykernel)"},
        "language_info": {"name": "python", "version": "3.99", "file_extension": ".py"},
    }
    for cell in model["content"]["cells"]:
        cell["metadata"] |= {"editable": True, "scrolled": True, "trusted": True}
    manager.save(model, path)


def kit_with(root, twin, text):
    """A kit of one notebook and its twin at their places."""
    place = root / "notebooks" / TWINS.relative_to(NOTEBOOKS) / twin.name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(NOTEBOOKS / "jupytext.toml", root / "notebooks")
    notebook = json.loads(notebook_of(twin).read_text(encoding="utf-8"))
    notebook["metadata"].pop("jupytext", None)
    (root / "notebooks" / notebook_of(twin).name).write_text(json.dumps(notebook), encoding="utf-8")
    place.write_text(text, encoding="utf-8")
    return place


@pytest.mark.parametrize("twin", twins(), ids=lambda twin: twin.stem)
def test_a_save_without_a_change_leaves_the_twin_as_it_is(twin, tmp_path):
    text = re.sub(r"\A# ---\n.*?# ---\n\n", "", twin.read_text(encoding="utf-8"), flags=re.DOTALL)
    place = kit_with(tmp_path, twin, text)
    saved_in_lab(tmp_path, twin)
    assert place.read_text(encoding="utf-8") == text
    made = sorted(path.name for path in tmp_path.rglob("*.py"))
    assert made == [twin.name]  # nothing is written anywhere else


def test_a_change_in_lab_reaches_the_twin_and_the_twin_alone_is_the_source(tmp_path):
    twin = twins()[0]
    place = kit_with(tmp_path, twin, twin.read_text(encoding="utf-8"))
    path = tmp_path / "notebooks" / f"{twin.stem}.ipynb"
    text = place.read_text(encoding="utf-8").replace("00 · Start here", "00 · Changed here")
    place.write_text(text, encoding="utf-8")
    saved_in_lab(tmp_path, twin)
    assert "00 · Changed here" in path.read_text(encoding="utf-8")
    assert read_twin(place).metadata.kernelspec == KERNEL
