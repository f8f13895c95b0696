"""The parts of `emrrg bench gpu`: what one has to know on the day a GPU is there.

Each yields its figures line by line. With the device `cpu` the same parts run at tiny sizes, to test the
command.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from unittest.mock import patch

import torch
from torch import Tensor

from emrrg_lib.bench import runs
from emrrg_lib.bench.scans import scan_inputs
from emrrg_lib.bench.system import REPORT, batch_of, random_weights
from emrrg_lib.data.sources import source_of_preset
from emrrg_lib.model import EMRRG
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
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}  # of the relative error
NAMES = ("u", "delta", "A", "B", "C", "D")


def kernels(device: str) -> list[str]:
    """The backends that work on this kind of device, without `reference`."""
    return [name for name, devices in DEVICES.items() if device in devices and unavailable(name) is None]


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
    for backend, length, dtype in product(kernels(device), lengths, BOUNDS):
        leaves = scan_inputs(length, dim, 2, device, dtype)
        exact = [t.detach().double().requires_grad_() for t in leaves]
        pairs = zip(scan_once(backend, leaves), scan_once("reference", exact), strict=True)
        errors = [((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-12)).item() for a, b in pairs]
        worst = dict(zip(("y", *NAMES), errors, strict=True))
        name = max(worst, key=worst.__getitem__)
        row = {"backend": backend, "L": length, "dtype": str(dtype)[6:], "largest": worst[name], "of": name}
        yield row | ({} if worst[name] <= BOUNDS[dtype] else {"error": f"more than {BOUNDS[dtype]}"})


def traffic(leaves: list[Tensor], device: str) -> dict[str, float]:
    """Bytes and FLOPs of the scan, and the time that the bytes alone take on this GPU."""
    (batch, channels, length), inputs = leaves[0].shape, sum(t.numel() * t.element_size() for t in leaves)
    y = leaves[0].numel() * leaves[0].element_size()
    moved = {
        "forward": inputs + y,
        "both": inputs + y + inputs + y + inputs,
    }  # backward: inputs, dy → gradients
    found = {f"{name}_mb": round(count / 1e6, 1) for name, count in moved.items()}
    found["forward_gflop"] = round(9 * batch * channels * length * 16 / 1e9, 2)
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    if speed := next((value for gpu, value in BYTES_A_SECOND.items() if gpu in name), None):
        found |= {f"roofline_{name}_ms": round(1000 * count / speed, 4) for name, count in moved.items()}
    return found


def unless_memory_ends(row: dict, task: Callable[[dict], object]) -> dict:
    """The row with what `task` puts into it; a note where the GPU's memory does not do."""
    try:
        task(row)
    except torch.OutOfMemoryError:
        row["note"] = "out of memory"
    return row


def kernel_times(device: str) -> Iterator[dict]:
    """Scan and convolution of each backend, forward and with backward; bytes, FLOPs and roofline beside."""
    batches, lengths, dim = ((2, 20, 32), (145, 197, 577), 768) if device == "cuda" else ((2,), (9,), 8)
    for batch, length, backend in product(batches, lengths, ("reference", *kernels(device))):
        leaves = scan_inputs(length, dim, batch, device, torch.bfloat16)
        x, bias = leaves[0], leaves[5]
        weight = torch.randn(4 * dim, 4, device=device, requires_grad=True)

        def measure(row: dict, leaves=leaves, x=x, weight=weight, bias=bias) -> None:
            def conv() -> None:
                out = causal_conv1d(x, weight, bias, row["backend"])
                torch.autograd.grad(out, (x, weight, bias), torch.ones_like(out))

            rounds = 2 if row["backend"] == "reference" else 10
            row["conv_both_ms"] = milliseconds(conv, device, rounds)
            for name, backward in (("forward", False), ("both", True)):
                task = partial(scan_once, row["backend"], leaves, backward)
                row[f"scan_{name}_ms"] = milliseconds(task, device, rounds)

        row = {"backend": backend, "batch": batch, "L": length, "dtype": "bfloat16"}
        yield unless_memory_ends(row, measure) | traffic(leaves, device)


def sweep(device: str) -> Iterator[dict]:
    """The Triton scan with other blocks: channels of a program and steps between two kept states."""
    if device != "cuda":
        return
    from emrrg_lib.vision.kernels import triton_scan

    leaves = scan_inputs(145, 768, 20, device, torch.bfloat16)
    for width, steps in product((16, 32, 64), (8, 16, 32)):
        with patch.multiple(triton_scan, WIDTH=width, STATES=16 * width, S=steps):
            forward = milliseconds(lambda: scan_once("triton", leaves, False), device)
            both = milliseconds(lambda: scan_once("triton", leaves), device)
        yield {"W": width, "S": steps, "forward_ms": forward, "both_ms": both}


def training(device: str) -> Iterator[dict]:
    """A step (forward, backward, AdamW): time, tokens, memory, and the loss beside the CPU's."""
    cuda = device == "cuda"
    for name, studies in (("iu-xray", 20), ("mimic-cxr", 18)) if cuda else (("tiny", 2),):
        for checkpointing in (True, False):
            row = {"preset": name, "batch": studies, "checkpointing": checkpointing}
            yield unless_memory_ends(row, partial(training_step, device=device))


def training_step(row: dict, device: str) -> None:
    """Puts the figures of one preset into the row. All reports are as long as the preset lets them be."""
    cuda, model = device == "cuda", random_weights(row["preset"], device)
    if row["checkpointing"]:
        model.gradient_checkpointing_enable()
    batch = batch_of(model, row["batch"], 9 * REPORT, views_of(row["preset"]))
    batch = {k: v.to(device) for k, v in batch.items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-5, fused=cuda or None)
    if row["preset"] != "mimic-cxr":  # 7B parameters take too long on the CPU
        row |= loss_of_one(model.eval(), batch, row["batch"])

    def step() -> None:
        model(**batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    row["step_ms"] = milliseconds(step, device)
    row["text_tokens_a_second"] = round(1000 * batch["input_ids"].numel() / row["step_ms"])
    if cuda:
        row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)


@torch.no_grad()
def loss_of_one(model: EMRRG, batch: dict[str, Tensor], studies: int) -> dict[str, float]:
    """The loss of the first study here, and of the same weights on the CPU."""
    one = {k: v[: len(v) // studies] for k, v in batch.items()}
    here = model(**one)["loss"].item()
    cpu = EMRRG.from_sizes(model.settings, model.tokenizer).eval()
    cpu.load_state_dict(model.state_dict())
    return {"loss_of_one": here, "on_the_cpu": cpu(**{k: v.cpu() for k, v in one.items()})["loss"].item()}


def views_of(name: str) -> int:
    """The images of a study."""
    source = source_of_preset(name)
    return source.views if source else 2


def generation(device: str) -> Iterator[dict]:
    """Reports of a forced length with 3 beams, and the time that the paper's test split would take."""
    cuda = device == "cuda"
    name = "mimic-cxr" if cuda else "tiny"
    model = random_weights(name, device).eval()
    for studies, tokens in product((8, 32, 64), (60, 100)) if cuda else ((2, 3),):
        batch = batch_of(model, studies, views=views_of(name))

        def measure(row: dict, batch=batch) -> None:
            length = {"min_new_tokens": row["tokens"], "max_new_tokens": row["tokens"]}
            task = partial(model.generate, batch["pixel_values"], batch["view_mask"], num_beams=3, **length)
            row["batch_ms"] = milliseconds(task, device, rounds=1)
            row["minutes_of_11562_reports"] = round(TEST_REPORTS / row["batch"] * row["batch_ms"] / 60_000, 2)

        row = {"preset": name, "batch": studies, "tokens": tokens}
        yield unless_memory_ends(row, measure) | {"paper_minutes": PAPER_MINUTES}


def kill_and_resume(device: str) -> Iterator[dict]:
    """`emrrg train` with SIGKILL and --resume, beside an undisturbed run."""
    yield runs.resumed(sharded=False)


def fsdp2(device: str) -> Iterator[dict]:
    """The same under FSDP2 at world size 1, beside an undisturbed run without it."""
    yield runs.resumed(sharded=True)


def gpu_tests(device: str) -> Iterator[dict]:
    """The tests marked gpu, in a checkout of the kit."""
    if device == "cuda":
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu"]
        done = subprocess.run(command, capture_output=True, text=True)
        summary = (done.stdout or done.stderr).strip().splitlines()[-1]
        yield {"error" if done.returncode else "summary": summary}


PARTS = {  # function → most minutes
    environment: 2,
    gpu_tests: 5,
    parity: 4,
    kernel_times: 6,
    kill_and_resume: 5,
    fsdp2: 5,
    training: 8,
    generation: 8,
    sweep: 5,
}
