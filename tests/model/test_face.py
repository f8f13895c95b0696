"""`import emrrg_lib`: the names a reader of the paper looks for, loaded when they are used."""

import re
import subprocess
import sys

import pytest

import emrrg_lib
from emrrg_lib.files import KIT


def in_a_new_process(code):
    return subprocess.run([sys.executable, "-c", code], cwd=KIT, capture_output=True, text=True)


@pytest.mark.parametrize("name", emrrg_lib.__all__)
def test_every_name_is_there(name):
    found = getattr(emrrg_lib, name)
    assert found.__name__ == name and found.__doc__ and name in dir(emrrg_lib)


def test_the_import_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'transformers', 'pandas', 'matplotlib'}"
    done = in_a_new_process(f"import emrrg_lib, sys; print({heavy} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


def test_everything_can_be_imported_by_a_star():
    done = in_a_new_process("from emrrg_lib import *; print(preset('tiny').llm.name, EMRRG.__name__)")
    assert done.stdout.split() == ["tiny", "EMRRG"], done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Emrrg'; it has EMRRG, "):
        emrrg_lib.Emrrg  # noqa: B018
    assert not hasattr(emrrg_lib, "nothing")


def test_the_map_names_every_notebook_and_rooms_that_exist():
    rows = re.findall(r"^    (\d\d) [^/.]+? {2,}(\S.*?)  ", emrrg_lib.__doc__, flags=re.M)
    notebooks = sorted(path.name[:2] for path in (KIT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert [number for number, _ in rows] == notebooks
    rooms = {room for _, found in rows for room in found.split(", ")} - {"NOTES.md"}
    assert all((KIT / "emrrg_lib" / room).exists() for room in rooms), rooms
