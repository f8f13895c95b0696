"""The Triton kernels without a GPU: in the interpreter, and compiled for GPUs that are not here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emrrg_lib.files import KIT

HERE = Path(__file__).parent
pytest.importorskip("triton", minversion="3.9", reason="older interpreters fail with numpy 2.4")


def test_the_kernels_are_right_in_the_interpreter():
    """Triton decides when imported, so this takes a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted.py")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(KIT)}
    done = subprocess.run(command, cwd=KIT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("gpu, dtype", [(75, "fp16"), (80, "bf16"), (90, "bf16")])
def test_the_shipped_blocks_fit_the_registers(gpu, dtype):
    from triton_compiled import KERNELS, registers_and_spills

    for name in KERNELS:
        registers, spilled = registers_and_spills(name, gpu, dtype)
        assert 0 < registers <= 255 and spilled == 0, f"{name}: {registers} registers, {spilled} B spilled"
