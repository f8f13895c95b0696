"""Atomic writing: whole or not at all, whatever stops it."""

import json
import os
import subprocess
import sys

import pytest

from emrrg_lib.files import atomic_path, write_json, write_text


def test_a_file_is_there_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent and not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, stop):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(BaseException) as raised, atomic_path(path) as temporary:
        temporary.write_text("half")
        raise stop
    assert raised.type is (stop if isinstance(stop, type) else type(stop))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_replaces_the_old_folder_whole(tmp_path):
    target = tmp_path / "data"
    for content in ("one", "two"):
        with atomic_path(target) as folder:
            folder.mkdir()
            (folder / content).write_text(content)
    assert os.listdir(tmp_path) == ["data"] and os.listdir(target) == ["two"]
    with pytest.raises(RuntimeError), atomic_path(target) as folder:
        folder.mkdir()
        (folder / "three").write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["data"] and os.listdir(target) == ["two"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    program = "import os, sys; from emrrg_lib.files import atomic_path\n"
    program += (
        "with atomic_path(sys.argv[1]) as path: path.mkdir(); (path / 'x').touch(); os.kill(os.getpid(), 9)"
    )
    for name in ("a[1].txt", "b.txt"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=False)
    left = next(tmp_path.glob(".a*.partial"))
    alive = left.with_name(left.name.rsplit("-", 1)[0] + f"-{os.getppid()}.partial")
    elsewhere = left.with_name(".a[1].txt.otherhost-1.partial")
    for path in (alive, elsewhere):
        path.write_text("")
    write_text(tmp_path / "a[1].txt", "x")
    kept = {path.name for path in tmp_path.glob(".*")}
    assert kept == {alive.name, elsewhere.name, next(tmp_path.glob(".b*.partial")).name}


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_path_that_cannot_be_written_raises_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_text_is_utf8(tmp_path):
    path = write_text(tmp_path / "a.txt", "α ← tanh")
    assert path.read_bytes().decode("utf-8") == "α ← tanh"


def test_json_is_readable_and_has_no_nan(tmp_path):
    value = {"α": [1, 2.5, None, True], "b": {"c": "ü"}}
    path = write_json(tmp_path / "a.json", value)
    assert json.loads(path.read_text(encoding="utf-8")) == value
    assert "α" in path.read_text(encoding="utf-8") and path.read_text(encoding="utf-8").endswith("}\n")
    for bad in (float("nan"), float("inf"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, {"x": bad})
    assert json.loads(path.read_text(encoding="utf-8")) == value and os.listdir(tmp_path) == ["a.json"]
