"""`emrrg bench scan`, `encoder` and `rivals`: scan and encoder beside other ways to run Mamba on a CPU."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from emrrg_lib.bench import compare, interleaved
from emrrg_lib.config import EncoderConfig
from emrrg_lib.files import first_line
from emrrg_lib.run_record import peak_memory_gib
from emrrg_lib.vision.mamba import VisionMamba
from emrrg_lib.vision.scan import selective_scan

BATCH, DIM, STATES, LENGTH, DIRECTIONS = 2, 768, 16, 197, 4  # of a scan: the base encoder's size
Scan = Callable[..., Tensor]  # (u, delta, A, B, C, D) of the mixer, see `scan_inputs` → (B, G · D, L)
TOKENS = {192: 145, 384: 577, 768: 2305}  # image size → tokens at patch 16, with the cls token
BATCHES = (1, 8, 32)
DEPTH = 2  # of 12 layers of the base encoder, in `rivals`: each costs the same


def scan_inputs(
    length: int = LENGTH,
    dim: int = DIM,
    batch: int = BATCH,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    states: int = STATES,
) -> list[Tensor]:
    """u, delta, A, B, C, D of four directions in the mixer's form, token-major; A and D are float32."""
    torch.manual_seed(0)
    channels = DIRECTIONS * dim

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape).to(device, dtype)

    A = -torch.arange(1.0, states + 1, device=device).repeat(channels, 1)
    u, delta = normal(batch, length, channels).mT, (normal(batch, length, channels) - 4).mT
    B, C = (normal(batch, DIRECTIONS, length, states).mT for _ in range(2))
    return [t.requires_grad_() for t in (u, delta, A, B, C, torch.ones(channels, device=device))]


def naive_scan(u, delta, A, B, C, D) -> Tensor:
    """One direction after the other; makes all (B, D, L, N) tensors at once, as mamba-ssm's reference does.

    Shapes are those of `selective_scan`.
    """
    outputs = []
    for g, channels in enumerate(torch.arange(u.shape[1]).chunk(B.shape[1])):
        step = F.softplus(delta[:, channels])
        decay = torch.exp(torch.einsum("bdl,dn->bdln", step, A[channels]))
        drive = torch.einsum("bdl,bnl,bdl->bdln", step, B[:, g], u[:, channels])
        state, ys = torch.zeros_like(decay[:, :, 0]), []
        for t in range(u.shape[2]):
            state = decay[:, :, t] * state + drive[:, :, t]
            ys.append(torch.einsum("bdn,bn->bd", state, C[:, g, :, t]))
        outputs.append(torch.stack(ys, dim=2) + u[:, channels] * D[channels, None])
    return torch.cat(outputs, dim=1)


def _kit(u, delta, A, B, C, D, backend: str) -> Tensor:
    return selective_scan(u, delta, A, B, C, D, delta_softplus=True, backend=backend)


OWN: dict[str, Scan] = {
    "cpu": partial(_kit, backend="cpu"),
    "reference": partial(_kit, backend="reference"),
    "naive": naive_scan,
}


def both_ways(scan: Scan, values: list[Tensor]) -> list[Tensor]:
    """Forward and backward: the output and all gradients."""
    out = scan(*values)
    return [out, *torch.autograd.grad(out.square().sum(), values)]


def added_memory(kind: str) -> float:
    """Peak memory that one pass adds to this process, GiB; call it in a new process."""
    both_ways(OWN[kind], scan_inputs(length=2, dim=8))  # libraries and kernels are loaded before
    values, before = scan_inputs(), peak_memory_gib()
    both_ways(OWN[kind], values)
    return peak_memory_gib() - before


def scan(quick: bool = False) -> dict:
    """Seconds forward and backward, times the `cpu` backend's, and the memory that a pass adds.

    Goals: `cpu` is at least 6 times as fast as `reference` and 50 times as fast as the naive scan.
    """
    memory = {}
    for kind in () if quick else OWN:  # first: a new process counts its parent's peak as its own
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory[kind] = round(pool.apply(added_memory, (kind,)), 3)
    values = scan_inputs(length=33 if quick else LENGTH)
    passes = {kind: partial(both_ways, way, values) for kind, way in OWN.items()}
    naive = {"naive": passes.pop("naive")}  # half a minute a pass: one round
    seconds = interleaved(passes, rounds=1 if quick else 5) | interleaved(naive, rounds=1)
    return {
        "batch": BATCH,
        "channels": DIM,
        "directions": DIRECTIONS,
        "states": STATES,
        "length": values[0].shape[2],
        **compare(seconds, "cpu"),
        "added_memory_gib": memory,
    }


Call = tuple[nn.Linear, Tensor, Tensor]  # a layer, its input, a gradient of its output


def linear_calls(encoder: nn.Module, images: Tensor) -> list[Call]:
    """Every call of a Linear layer in one forward pass, with random numbers of the same shapes."""
    calls: list[Call] = []

    def note(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, torch.randn(inputs[0].shape, requires_grad=True), torch.randn(output.shape)))

    hooks = [m.register_forward_hook(note) for m in encoder.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        encoder(images)
    for hook in hooks:
        hook.remove()
    return calls


def _encoder(image_size: int, depth: int = DEPTH) -> VisionMamba:
    torch.manual_seed(0)
    return VisionMamba(EncoderConfig(image_size=image_size, depth=depth, drop_path=0.0))


def _encoder_pass(model: VisionMamba, images: Tensor, scan: Scan) -> Sequence[Tensor]:
    """Forward and backward with the given scan in every mixer: the gradients."""

    def replaced(x, delta, A, B, C, D, **_) -> Tensor:
        return scan(x, delta, A, B, C, D)

    with patch("emrrg_lib.vision.mamba.selective_scan", replaced):
        return torch.autograd.grad(model(images).sum(), list(model.parameters()))


def encoder(quick: bool = False) -> dict:
    """Seconds of the base encoder at 224 px, forward and backward, with both scan backends.

    Beside them the seconds of its Linear layers alone. Goal: the encoder takes at most 1.4 times as long.
    """
    depth = 1 if quick else 12
    model, images = _encoder(224, depth), torch.randn(1 if quick else 2, 3, 224, 224)
    calls = linear_calls(model, images)
    weights = [p for layer, _, _ in calls for p in layer.parameters()]

    def linears() -> None:
        outputs = [layer(x) for layer, x, _ in calls]
        torch.autograd.grad(outputs, [*weights, *(x for _, x, _ in calls)], [g for _, _, g in calls])

    tasks = {
        "linears": linears,
        "encoder": partial(_encoder_pass, model, images, OWN["cpu"]),
        "encoder with the reference scan": partial(_encoder_pass, model, images, OWN["reference"]),
    }
    seconds = interleaved(tasks, rounds=1 if quick else 3)
    return {"batch": len(images), "image_size": 224, "depth": depth, **compare(seconds, "linears")}


def _by_direction(scan: Scan, u, delta, A, B, C, D) -> Tensor:
    """Calls a scan that knows one B and C for all channels, for one direction after the other."""
    channels = torch.arange(u.shape[1]).chunk(B.shape[1])
    parts = [scan(u[:, c], delta[:, c], A[c], B[:, g], C[:, g], D[c]) for g, c in enumerate(channels)]
    return torch.cat(parts, dim=1)


def _mambapy(u, delta, A, B, C, D) -> Tensor:
    """mambapy's parallel scan, which makes all (B, L, D, N) states; D is the skip weight."""
    from mambapy.pscan import pscan

    step = F.softplus(delta).mT  # (B, L, D)
    drive = (step * u.mT)[..., None] * B.mT[:, :, None]
    states = pscan(torch.exp(step[..., None] * A), drive)
    return (states @ C.mT[..., None]).squeeze(-1).mT + u * D[:, None]


def _transformers(u, delta, A, B, C, D) -> Tensor:
    """The path of transformers' Mamba where no CUDA kernel is there."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    return mamba_selective_scan(u, delta, A, B, C, D, delta_softplus=True)


def every_way() -> dict[str, Scan]:
    """Every way by name; the kit's own is `cpu`. Not all of them run on every machine."""
    return {
        "cpu": OWN["cpu"],
        "loop": OWN["reference"],
        "storing loop": naive_scan,
        "mambapy": partial(_by_direction, _mambapy),
        "transformers": partial(_by_direction, _transformers),
        "compiled loop": torch.compile(partial(_kit, backend="reference")),
    }


def first_calls(ways: Mapping[str, Scan], values: list[Tensor]) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of the first call of each way that runs, compilation included; of the others, why not."""
    first, missing = {}, {}
    for name, way in ways.items():
        started = time.perf_counter()
        try:
            both_ways(way, values)
            first[name] = round(time.perf_counter() - started, 3)
        except Exception as error:  # not installed, another release of it, no compiler, no memory
            missing[name] = f"{type(error).__name__}: {first_line(error)}"
    return first, missing


def _growth(sizes: Mapping[int, int], batches: Sequence[int], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of the kit's scan and encoder, forward and backward, by tokens at batch 1, by batch, by N."""
    scan, tasks = OWN["cpu"], {}
    for size, batch in [*((size, 1) for size in sizes), *((min(sizes), batch) for batch in batches[1:])]:
        name = f"{sizes[size]} tokens, batch {batch}"
        tasks["scan", name] = partial(both_ways, scan, scan_inputs(sizes[size], batch=batch))
        tasks["encoder", name] = partial(
            _encoder_pass, _encoder(size), torch.randn(batch, 3, size, size), scan
        )
    inputs = {("scan", f"N = {n}"): scan_inputs(min(sizes.values()), states=n) for n in (8, STATES)}
    states = {name: partial(both_ways, scan, values) for name, values in inputs.items()}
    seconds = interleaved(tasks, rounds) | interleaved(states, 5 * rounds)  # short: more rounds
    return {
        part: {name: round(s, 4) for (which, name), s in seconds.items() if which == part}
        for part in ("scan", "encoder")
    }


def _shared_pass(rank: int, processes: int, size: int, batch: int, meeting: str) -> float:
    """Best seconds of an encoder pass on this process's share of a batch, gradients summed over all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    model, images = _encoder(size), torch.randn(batch // processes, 3, size, size)

    def step() -> None:
        for gradient in _encoder_pass(model, images, OWN["cpu"]):
            dist.all_reduce(gradient)

    best = interleaved({"step": step}, rounds=5)["step"]
    dist.destroy_process_group()
    return best


def processes(size: int, batch: int) -> dict[str, float]:
    """Seconds of an encoder pass over one batch in 1 and in 2 processes of one thread each.

    `efficiency` is 1 where two processes take half the time of one.
    """
    seconds = {}
    for count in (1, 2):
        with (
            tempfile.TemporaryDirectory() as folder,
            multiprocessing.get_context("spawn").Pool(count) as pool,
        ):
            shares = [(rank, count, size, batch, f"{folder}/meeting") for rank in range(count)]
            seconds[f"{count}"] = round(max(pool.starmap(_shared_pass, shares, chunksize=1)), 4)
    return seconds | {"efficiency": round(seconds["1"] / (2 * seconds["2"]), 2)}


def rivals(quick: bool = False) -> dict:
    """Seconds forward and backward of every way, over those of the kit's `cpu` kernel, in one run.

    The encoder has the base size with `depth` layers; each layer costs the same. `first_call_seconds` are
    those of the scan and hold the compilation. `missing` says why a way did not run.
    """
    sizes = {32: 5, 64: 17} if quick else TOKENS
    size = min(sizes)
    first, missing = first_calls(ways := every_way(), values := scan_inputs(sizes[size]))
    there = {name: way for name, way in ways.items() if name in first}
    model, images = _encoder(size), torch.randn(len(values[0]), 3, size, size)
    rounds = 1 if quick else 3
    scans = {name: partial(both_ways, way, values) for name, way in there.items()}
    there.pop("compiled loop", None)  # it would be compiled again for other strides, for minutes
    encoders = {name: partial(_encoder_pass, model, images, way) for name, way in there.items()}
    return {
        "tokens": sizes[size],
        "batch": len(images),
        "depth": DEPTH,
        "first_call_seconds": first,
        "missing": missing,
        "scan": compare(interleaved(scans, rounds), "cpu"),
        "encoder": compare(interleaved(encoders, rounds), "cpu"),
        "growth": _growth(sizes, (1, 2) if quick else BATCHES, rounds),
        "processes": processes(size, 2 if quick else 16),
    }
