"""Kit and home that cannot be written, as in a container with a foreign user id: caches find a place."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emrrg_lib.files import KIT, cache_folder

SETPRIV = shutil.which("setpriv")
ROOT = getattr(os, "getuid", lambda: 0)() == 0  # it writes everywhere, unless that right is taken from it
CAPABILITIES = "-dac_override,-dac_read_search"
needs_rights = pytest.mark.skipif(ROOT and not SETPRIV, reason="root writes everywhere without setpriv")
SAID = "no cache folder can be written"


@pytest.fixture
def closed(tmp_path):
    """Runs Python code with a kit and a home that are closed; `open_` names what stays open."""
    kept = shutil.ignore_patterns("__pycache__")
    shutil.copytree(KIT / "emrrg_lib", tmp_path / "kit" / "emrrg_lib", ignore=kept)
    for name in ("home", "work", "tmp", "cache"):
        (tmp_path / name).mkdir()

    def run(code, open_=(), **environment):
        shut = [folder for folder in ("kit", "home") if folder not in open_]
        for name in shut:
            for folder in (tmp_path / name, *(tmp_path / name).rglob("*")):
                folder.chmod(0o555 if folder.is_dir() else 0o444)
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_CACHE", "EMRRG_", "XDG_"))}
        paths = {"PYTHONPATH": tmp_path / "kit", "HOME": tmp_path / "home", "TMPDIR": tmp_path / "tmp"}
        keep |= {name: str(path) for name, path in (paths | environment).items()}
        rights = [SETPRIV, f"--bounding-set={CAPABILITIES}", f"--inh-caps={CAPABILITIES}"] if ROOT else []
        done = subprocess.run(
            [*rights, sys.executable, "-c", code],
            cwd=tmp_path / "work",
            env=keep,
            capture_output=True,
            text=True,
        )
        for name in shut:
            for folder in (tmp_path / name, *(tmp_path / name).rglob("*")):
                folder.chmod(0o755)
        return done

    return run


def where(done, tmp_path):
    """Folder below the test's in which numba keeps its kernels; None: beside the modules."""
    said = done.stdout.splitlines()[-1]
    return None if said == "None" else str(Path(said).relative_to(tmp_path))


PRINT = "import os, emrrg_lib; print(os.environ.get('NUMBA_CACHE_DIR'))"


@needs_rights
@pytest.mark.parametrize(
    ("open_", "environment", "folder", "warned"),
    [
        (("kit", "home"), {}, None, False),
        (("kit",), {}, None, False),
        (("home",), {}, "home/.cache/emrrg/numba", False),
        ((), {}, "tmp/emrrg-UID/numba", True),
        ((), {"EMRRG_CACHE": "cache"}, "cache/numba", False),
        ((), {"EMRRG_CACHE": "home/x"}, "tmp/emrrg-UID/numba", True),
        ((), {"NUMBA_CACHE_DIR": "cache/mine"}, "cache/mine", False),
        ((), {"NUMBA_CACHE_DIR": "home/mine"}, "tmp/emrrg-UID/numba", True),
        (("kit",), {"NUMBA_CACHE_DIR": "cache/mine"}, "cache/mine", False),
    ],
)
def test_numba_gets_a_folder_that_can_be_written(closed, tmp_path, open_, environment, folder, warned):
    done = closed(PRINT, open_, **{name: tmp_path / path for name, path in environment.items()})
    folder = folder and folder.replace("UID", str(getattr(os, "getuid", lambda: 0)()))
    assert where(done, tmp_path) == folder, done.stderr
    assert done.stderr.count(SAID) == warned


@needs_rights
def test_a_temporary_folder_of_somebody_else_is_not_used(closed, tmp_path):
    own = f"emrrg-{getattr(os, 'getuid', lambda: 0)()}"
    (tmp_path / "tmp" / own).mkdir()
    (tmp_path / "tmp" / own).chmod(0o777)
    assert where(closed(PRINT), tmp_path) != f"tmp/{own}/numba"
    (tmp_path / "tmp" / own).rmdir()
    (tmp_path / "tmp" / own).write_text("a file")
    assert where(closed(PRINT), tmp_path) != f"tmp/{own}/numba"
    (tmp_path / "tmp" / own).unlink()
    assert where(closed(PRINT), tmp_path) == f"tmp/{own}/numba"
    assert (tmp_path / "tmp" / own).stat().st_mode & 0o777 == 0o700


@needs_rights
def test_kernels_run_and_phantoms_are_drawn(closed, tmp_path):
    code = (
        "import sys\nfrom emrrg_lib.cli import main\nfrom emrrg_lib.vision.scan import unavailable\n"
        "code = main('data phantom --studies 3 --size 32 --out ph'.split())\n"
        "sys.exit(code or unavailable('cpu'))"
    )
    done = closed(code)
    assert done.returncode == 0 and done.stderr.count(SAID) == 1, done.stderr
    assert (tmp_path / "work" / "ph" / "annotation.json").is_file()


def test_a_user_without_a_home_gets_no_folder_named_tilde(tmp_path, monkeypatch):
    monkeypatch.delenv("EMRRG_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr("emrrg_lib.files.tempfile.gettempdir", lambda: str(tmp_path))
    from emrrg_lib.files import temporary_caches

    temporary_caches.cache_clear()
    assert cache_folder("images").parent.parent == tmp_path
    temporary_caches.cache_clear()
