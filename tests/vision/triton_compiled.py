"""Compiles the Triton kernels for GPUs that are not here; run as a program it prints a table.

ptxas, which comes with Triton, tells the registers of a thread and the bytes it spills to memory.
"""

import re
import subprocess
import tempfile
from itertools import product
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from emrrg_lib.vision.kernels import triton_conv, triton_scan

GPUS = {75: ("fp16", "fp32"), 80: ("bf16", "fp32"), 90: ("bf16", "fp32")}  # T4, A100, H100
FLOAT32 = ("A", "D", "kept", "work", "ddt", "dA", "dB", "dC", "dD", "dweight", "dbias")
NUMBERS = ("length", "dim", "group", "segments")
KERNELS = {  # name → kernel, constants, warps
    "scan forward": (triton_scan._scan_forward, {}, 1),
    "scan backward": (triton_scan._scan_backward, {}, 1),
    "conv forward": (triton_conv._conv_forward, {"K": 4, **triton_conv.TILE}, 4),
    "conv backward": (triton_conv._conv_backward, {"K": 4, **triton_conv.TILE}, 4),
}


def registers_and_spills(name: str, gpu: int, dtype: str, N: int = 16, **sizes: int) -> tuple[int, int]:
    """Registers of a thread and bytes it spills, for the arguments of the mixer: D, no bias, softplus."""
    kernel, constants, warps = KERNELS[name]
    if name.startswith("scan"):
        constants = constants | triton_scan.block(N) | {"SOFTPLUS": True, "bias": None}
    constants = constants | sizes
    kinds = {}
    for argument in kernel.arg_names:
        kind = "i32" if argument in NUMBERS else "*fp32" if argument in FLOAT32 else f"*{dtype}"
        kinds[argument] = "constexpr" if argument in constants else kind
    places = {argument: (kernel.arg_names.index(argument),) for argument in kinds}
    free = [a for a in kinds if a not in constants and a not in ("length", "segments")]
    source = ASTSource(
        fn=kernel,
        signature=kinds,
        constexprs={places[a]: value for a, value in constants.items()},
        attrs={places[a]: [["tt.divisibility", 16]] for a in free},
    )
    compiled = triton.compile(
        source, target=GPUTarget("cuda", gpu, 32), options={"num_warps": warps, "enable_fp_fusion": True}
    )
    ptx = compiled.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx)
        ptxas = sorted(Path(triton.__file__).parent.glob("backends/nvidia/bin/ptxas*"))[-1]
        architecture = re.search(r"\.target (\w+)", ptx).group(1)
        command = [ptxas, "-v", f"-arch={architecture}", file, "-o", file.with_suffix(".cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.search(r"Used (\d+) reg", said)[1]), int(re.search(r"(\d+) bytes spill stores", said)[1])


if __name__ == "__main__":
    print("triton", triton.__version__)
    for name, (gpu, dtypes) in product(KERNELS, GPUS.items()):
        for dtype, N in product(dtypes, (8, 16, 32) if name.startswith("scan") else (16,)):
            registers, spilled = registers_and_spills(name, gpu, dtype, N)
            print(
                f"{name:14} sm_{gpu} {dtype} N={N:<3} {registers:3} registers, {spilled} bytes spilled",
                flush=True,
            )
