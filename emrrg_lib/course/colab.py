"""Installs the kit on Colab; the notebooks' first cell calls it there, before the library exists.

Colab's own torch stays, and with it its CUDA: pip gets the installed version as a constraint. Run by its
path, so it imports nothing of the kit. It was not run on Colab by us.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

KIT = Path(__file__).resolve().parents[2]


def command(constraints: Path) -> list[str]:
    """pip's command; writes the version of the installed torch into `constraints`."""
    constraints.write_text(f"torch=={version('torch')}\n", encoding="utf-8")
    return [sys.executable, "-m", "pip", "install", "-q", "-c", str(constraints), "-e", str(KIT)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(subprocess.run(command(Path(folder) / "constraints.txt"), check=False).returncode)
