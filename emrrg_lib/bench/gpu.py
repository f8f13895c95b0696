"""`emrrg bench gpu`: what one has to know on the day a GPU is there, as JSON lines.

Each part is a process of its own with a time limit, so that a part that fails or hangs takes no other with
it. With the device `cpu` the same parts run at tiny sizes, to test the command.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from threading import Timer
from unittest.mock import patch

import torch
from torch import Tensor

from emrrg_lib.bench.system import batch_of
from emrrg_lib.files import InputError, text_table
from emrrg_lib.language.llm import load_llm
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset
from emrrg_lib.run_record import run_record
from emrrg_lib.vision.scan import DEVICES, causal_conv1d, selective_scan, unavailable

BYTES_A_SECOND = {
    "H200": 4.8e12,
    "H100": 3.35e12,
    "A800": 2.0e12,
    "A100": 2.0e12,
    "L4": 0.3e12,
    "T4": 0.32e12,
}
TEST_REPORTS, PAPER_MINUTES = 11_562, 26.84  # §4.4, table 7: one A800
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAMES = ("u", "delta", "A", "B", "C", "D")


def kernels(device: str) -> list[str]:
    """The backends that work on this kind of device, without `reference`."""
    return [name for name, devices in DEVICES.items() if device in devices and unavailable(name) is None]


def scan_leaves(batch: int, length: int, dim: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    """u, delta, A, B, C, D of four directions of `dim` channels, token-major as in the mixer."""
    g = torch.Generator().manual_seed(0)
    channels = 4 * dim

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g).to(device, dtype)

    A = -torch.arange(1.0, 17, device=device).repeat(channels, 1)
    u, delta = normal(batch, length, channels).mT, (normal(batch, length, channels) - 4).mT
    B, C = (normal(batch, 4, length, 16).mT for _ in range(2))
    return [t.requires_grad_() for t in (u, delta, A, B, C, torch.ones(channels, device=device))]


def scan_once(backend: str, leaves: list[Tensor], backward: bool = True) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    with torch.set_grad_enabled(backward):
        out = selective_scan(*leaves, delta_softplus=True, backend=backend)
    return [out, *torch.autograd.grad(out, leaves, torch.ones_like(out))] if backward else [out]


def milliseconds(task: Callable[[], object], device: str, rounds: int = 10) -> float:
    """The best of some rounds, after one warm-up."""
    best = float("inf")
    for turn in range(1 + (rounds if device == "cuda" else 1)):
        started = time.perf_counter()
        task()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started) if turn else best
    return round(1000 * best, 4)


def environment(device: str) -> Iterator[dict]:
    """Hardware, versions, and why a backend does not work."""
    reasons = {name: unavailable(name) for name in DEVICES}
    facts = {"cuda": torch.version.cuda, "hip": torch.version.hip, "unavailable": reasons}
    if device == "cuda":
        facts["gpu_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    yield run_record("bench gpu", time.time(), device=device, **facts)


def parity(device: str) -> Iterator[dict]:
    """Largest relative error of output and gradients against the float64 loop."""
    lengths, dim = ((1, 37, 145, 197, 1000), 64) if device == "cuda" else ((1, 37), 8)
    for backend, length, dtype in product(kernels(device), lengths, DTYPES):
        leaves = scan_leaves(2, length, dim, device, dtype)
        exact = [t.detach().double().requires_grad_() for t in leaves]
        pairs = zip(scan_once(backend, leaves), scan_once("reference", exact), strict=True)
        errors = [((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-12)).item() for a, b in pairs]
        worst = dict(zip(("y", *NAMES), errors, strict=True))
        name = max(worst, key=worst.__getitem__)
        yield {"backend": backend, "L": length, "dtype": str(dtype)[6:], "error": worst[name], "of": name}


def traffic(leaves: list[Tensor], device: str) -> dict[str, float]:
    """Bytes and FLOPs of a forward pass, and the time that the bytes alone take on this GPU."""
    (batch, channels, length), moved = leaves[0].shape, sum(t.numel() * t.element_size() for t in leaves)
    moved += leaves[0].numel() * leaves[0].element_size()  # y
    found = {
        "forward_mb": round(moved / 1e6, 1),
        "forward_gflop": round(9 * batch * channels * length * 16 / 1e9, 2),
    }
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    speed = next((value for gpu, value in BYTES_A_SECOND.items() if gpu in name), None)
    return found | ({"roofline_ms": round(1000 * moved / speed, 4)} if speed else {})


def kernel_times(device: str) -> Iterator[dict]:
    """Scan and convolution of each backend, forward and with backward; bytes, FLOPs and roofline beside."""
    batches, lengths, dim = ((2, 20, 32), (145, 197, 577), 768) if device == "cuda" else ((2,), (9,), 8)
    for batch, length, backend in product(batches, lengths, ("reference", *kernels(device))):
        if backend == "reference" and batch > 2:
            continue  # it keeps every state: tens of GB
        leaves = scan_leaves(batch, length, dim, device, torch.bfloat16)
        row = {"backend": backend, "batch": batch, "L": length, "dtype": "bfloat16"}
        x, weight, bias = leaves[0], torch.randn(4 * dim, 4, device=device), leaves[5]

        def conv(x=x, weight=weight, bias=bias, backend=backend) -> None:
            out = causal_conv1d(x, weight.requires_grad_(), bias, backend)
            torch.autograd.grad(out, (x, weight, bias), torch.ones_like(out))

        row["scan_forward_ms"] = milliseconds(lambda v=leaves, b=backend: scan_once(b, v, False), device)
        row["scan_both_ms"] = milliseconds(lambda v=leaves, b=backend: scan_once(b, v), device)
        yield row | {"conv_both_ms": milliseconds(conv, device), **traffic(leaves, device)}


def sweep(device: str) -> Iterator[dict]:
    """The Triton scan with other blocks: channels of a program and steps between two kept states."""
    if device != "cuda":
        return
    from emrrg_lib.vision.kernels import triton_scan

    leaves = scan_leaves(20, 145, 768, device, torch.bfloat16)
    for width, steps in product((16, 32, 64), (8, 16, 32)):
        with patch.multiple(triton_scan, WIDTH=width, STATES=16 * width, S=steps):
            forward = milliseconds(lambda: scan_once("triton", leaves, False), device)
            both = milliseconds(lambda: scan_once("triton", leaves), device)
        yield {"W": width, "S": steps, "forward_ms": forward, "both_ms": both}


def build(name: str, device: str) -> EMRRG:
    """A preset with random weights; any tokenizer serves."""
    gc.collect()
    with torch.device(device):
        return EMRRG.from_sizes(preset(name), load_llm("tiny")[1])


def training(device: str) -> Iterator[dict]:
    """A step (forward, backward, AdamW): time, tokens, memory, and the loss beside the CPU's."""
    cuda = device == "cuda"
    for name, studies in (("iu-xray", 20), ("mimic-cxr", 8)) if cuda else (("tiny", 2),):
        for checkpointing in (False, True):
            model = build(name, device).train()
            if checkpointing:
                model.gradient_checkpointing_enable()
            batch = {k: v.to(device) for k, v in batch_of(model, studies).items()}
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, 1e-5, fused=cuda or None)

            def step(model=model, batch=batch, optimizer=optimizer) -> None:
                model(**batch)["loss"].backward()
                optimizer.step()
                optimizer.zero_grad()

            row = {"preset": name, "batch": studies, "checkpointing": checkpointing}
            row["loss_before"] = round(model.eval()(**batch)["loss"].item(), 5)
            if cuda and name == "iu-xray" and not checkpointing:
                cpu = EMRRG.from_sizes(preset(name), model.tokenizer).eval()
                cpu.load_state_dict(model.state_dict())
                one = {k: v[: len(v) // studies].cpu() for k, v in batch.items()}
                here = {k: v.to(device) for k, v in one.items()}
                with torch.no_grad():
                    row["loss_of_one"], row["on_the_cpu"] = (
                        model(**here)["loss"].item(),
                        cpu(**one)["loss"].item(),
                    )
                del cpu
            model.train()
            row["step_ms"] = milliseconds(step, device)
            row["text_tokens_a_second"] = round(1000 * batch["input_ids"].numel() / row["step_ms"])
            if cuda:
                row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
                torch.cuda.reset_peak_memory_stats()
            yield row
            del model, batch, trained, optimizer, step


def generation(device: str) -> Iterator[dict]:
    """Reports of a forced length with 3 beams, and the time that the paper's test split would take."""
    cuda = device == "cuda"
    model = build("mimic-cxr" if cuda else "tiny", device).eval()
    for studies, tokens in product((8, 32, 64), (60, 100)) if cuda else ((2, 3),):
        batch, length = batch_of(model, studies), {"min_new_tokens": tokens, "max_new_tokens": tokens}
        images = batch["pixel_values"], batch["view_mask"]
        ms = milliseconds(lambda i=images, n=length: model.generate(*i, num_beams=3, **n), device, rounds=1)
        minutes = round(TEST_REPORTS / studies * ms / 60_000, 2)
        row = {"batch": studies, "tokens": tokens, "batch_ms": ms, "minutes_of_11562_reports": minutes}
        yield row | {"paper_minutes": PAPER_MINUTES}


def gpu_tests(device: str) -> Iterator[dict]:
    """The tests marked gpu, in a checkout of the kit."""
    if device == "cuda":
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu"]
        done = subprocess.run(command, capture_output=True, text=True)
        yield {"exit_code": done.returncode, "summary": done.stdout.strip().splitlines()[-1]}


PARTS = {  # function → most minutes
    environment: 2,
    parity: 5,
    kernel_times: 6,
    sweep: 4,
    training: 8,
    generation: 10,
    gpu_tests: 5,
}


def measure(minutes: float, device: str, file: Path | None) -> Iterator[dict]:
    """Runs the parts one after the other and yields each line, as soon as it is in `file`.

    Raises InputError for the device `cuda` where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch sees no CUDA device here; --device cpu runs the same parts at tiny sizes")
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("", encoding="utf-8")
    end = time.monotonic() + 60 * minutes
    for part, most in PARTS.items():
        limit = min(60 * most, end - time.monotonic())
        for line in run_part(part.__name__, device, limit) if limit > 0 else [{"error": "no time was left"}]:
            line = {"part": part.__name__, **line}
            if file:
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(line) + "\n")
            yield line


def run_part(name: str, device: str, limit: float) -> Iterator[dict]:
    """The lines of one part; a part that fails or takes more than `limit` seconds ends in an error line."""
    command = [sys.executable, "-m", "emrrg_lib.bench.gpu", name, device]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    timer, said = Timer(limit, child.kill), ""
    timer.start()
    try:
        for line in child.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)
            else:
                said = line.strip() or said
        if child.wait():
            yield {"error": "the time limit" if not timer.is_alive() else said}
    finally:
        timer.cancel()
        child.kill()
        child.wait()


def report(file: Path) -> str:
    """The lines of a JSON file as Markdown tables, one a part. Raises InputError for another file."""
    parts: dict[str, list[dict]] = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            parts.setdefault(row.pop("part"), []).append(row)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{file} holds no lines of `emrrg bench gpu --json`: {error}") from error
    text = []
    for part, rows in parts.items():
        if part == "environment" and "hardware" in rows[0]:
            rows = [{**rows[0]["hardware"], **rows[0]["versions"]}]
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[str(row.get(name, "")) for name in names] for row in rows]
        text.append(f"{part}\n\n{text_table([names, *cells], left=len(names), markdown=True)}")
    return "\n\n".join(text)


if __name__ == "__main__":
    chosen = {part.__name__: part for part in PARTS}[sys.argv[1]]
    for found in chosen(sys.argv[2]):
        print(json.dumps(found), flush=True)
