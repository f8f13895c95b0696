"""The house: short modules and functions, no circle of imports, the rooms of the method below the others."""

import ast
from functools import cache
from pathlib import Path

import pytest

from emrrg_lib.files import KIT

LIBRARY = KIT / "emrrg_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))
# What each room of the method may import; the rooms of work with files stay above them.
METHOD = {
    "vision": {"config", "files"},
    "tuning": {"config", "files", "vision"},
    "language": {"config", "files", "settings"},
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Dotted names below `emrrg_lib` of what a module imports, in functions too."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("emrrg_lib."):
            name = node.module.removeprefix("emrrg_lib.")
            inner = {f"{name}.{alias.name}" for alias in node.names}
            modules = {
                each for each in inner if (LIBRARY / each.replace(".", "/")).with_suffix(".py").is_file()
            }
            found |= modules or {name}
    return found


def room(name: str) -> str:
    return name.split(".")[0]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__")


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """A circle of the graph, or []; depth first."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            if found := walk(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in arrows if (found := walk(name, []))), [])


def test_the_search_for_circles_finds_one():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}})


def test_modules_and_rooms_import_in_no_circle():
    modules = {dotted(path): imports(path) for path in MODULES}
    assert not circle(modules)
    rooms: dict[str, set[str]] = {}
    for name, others in modules.items():
        rooms.setdefault(room(name), set()).update({room(each) for each in others} - {room(name)})
    assert not circle(rooms)
    for name, allowed in METHOD.items():
        assert rooms[name] <= allowed, f"{name} imports {rooms[name] - allowed}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_and_its_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{node.name} has more than 50 lines"
