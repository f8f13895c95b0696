"""The map of emrrg_lib/README.md names every module once, and nothing that does not exist."""

import re

from emrrg_lib.files import KIT

LIBRARY = KIT / "emrrg_lib"


def section(text, title):
    """The text below a heading of second level."""
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], flags=re.MULTILINE)[0]


def named():
    """Every path that the map names: the room of its heading, where that is a folder, and the file."""
    room, layout = "", section((LIBRARY / "README.md").read_text(encoding="utf-8"), "Layout")
    for line in layout.splitlines():
        if line.startswith("### "):
            room = line[4:] if (LIBRARY / line[4:]).is_dir() else ""
        elif item := re.match(r"- `([^`]+)`: \S", line):
            yield f"{room}/{item[1]}".lstrip("/")


def modules():
    """Every module but the rooms' own `__init__`; the self-checks of the course are one entry."""
    for path in LIBRARY.glob("**/*.py"):
        if path.name not in ("__init__.py", "__main__.py") and path.parent.name != "checks":
            yield str(path.relative_to(LIBRARY))


def test_every_module_is_on_the_map_once():
    on_map = list(named())
    assert len(on_map) == len(set(on_map))
    assert set(modules()) - set(on_map) == set()


def test_the_map_names_nothing_that_does_not_exist():
    assert [path for path in named() if not (LIBRARY / path).exists()] == []


def test_every_room_has_a_heading():
    layout = section((LIBRARY / "README.md").read_text(encoding="utf-8"), "Layout")
    rooms = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"^### (\w+)$", layout, re.MULTILINE))
