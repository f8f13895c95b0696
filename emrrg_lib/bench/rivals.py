"""`emrrg bench rivals`: scan and encoder beside what else runs on a CPU, and how their time grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from emrrg_lib.bench import compare, interleaved
from emrrg_lib.bench.parts import naive_scan, scan_inputs
from emrrg_lib.config import EncoderConfig
from emrrg_lib.files import first_line
from emrrg_lib.vision.mamba import VisionMamba
from emrrg_lib.vision.scan import selective_scan

Scan = Callable[..., Tensor]  # (u, delta, A, B, C, D) of the mixer, see `scan_inputs` → (B, G · D, L)
TOKENS = {192: 145, 384: 577, 768: 2305}  # image size → tokens at patch 16, with the cls token
BATCHES = (1, 8, 32)
DEPTH = 2  # of 12 layers of the base encoder: each costs the same


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


def _loop(u, delta, A, B, C, D, backend: str = "reference") -> Tensor:
    return selective_scan(u, delta, A, B, C, D, delta_softplus=True, backend=backend)


def every_way() -> dict[str, Scan]:
    """Every way by name; the kit's own is `cpu`. Not all of them run on every machine."""
    return {
        "cpu": partial(_loop, backend="cpu"),
        "loop": _loop,
        "storing loop": naive_scan,
        "mambapy": partial(_by_direction, _mambapy),
        "transformers": partial(_by_direction, _transformers),
        "compiled loop": torch.compile(_loop),
    }


def scan_both_ways(scan: Scan, values: list[Tensor]) -> list[Tensor]:
    """Forward and backward: the output and all gradients."""
    out = scan(*values)
    return [out, *torch.autograd.grad(out.square().sum(), values)]


def first_calls(ways: Mapping[str, Scan], values: list[Tensor]) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of the first call of each way that runs, compilation included; of the others, why not."""
    first, missing = {}, {}
    for name, way in ways.items():
        started = time.perf_counter()
        try:
            scan_both_ways(way, values)
            first[name] = round(time.perf_counter() - started, 3)
        except Exception as error:  # not installed, another release of it, no compiler, no memory
            missing[name] = f"{type(error).__name__}: {first_line(error)}"
    return first, missing


def _encoder(image_size: int) -> VisionMamba:
    torch.manual_seed(0)
    return VisionMamba(EncoderConfig(image_size=image_size, depth=DEPTH, drop_path=0.0))


def _encoder_pass(model: VisionMamba, images: Tensor, scan: Scan) -> None:
    """Forward and backward with the given scan in every mixer."""

    def replaced(x, delta, A, B, C, D, **_) -> Tensor:
        return scan(x, delta, A, B, C, D)

    with patch("emrrg_lib.vision.mamba.selective_scan", replaced):
        torch.autograd.grad(model(images).sum(), list(model.parameters()))


def _growth(sizes: Mapping[int, int], batches: Sequence[int], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of the kit's scan and encoder, forward and backward, by tokens at batch 1 and by batch."""
    scan, tasks = partial(_loop, backend="cpu"), {}
    for size, batch in [*((size, 1) for size in sizes), *((min(sizes), batch) for batch in batches[1:])]:
        name = f"{sizes[size]} tokens, batch {batch}"
        tasks["scan", name] = partial(scan_both_ways, scan, scan_inputs(sizes[size], batch=batch))
        tasks["encoder", name] = partial(
            _encoder_pass, _encoder(size), torch.randn(batch, 3, size, size), scan
        )
    seconds = interleaved(tasks, rounds)
    return {
        part: {name: round(s, 4) for (which, name), s in seconds.items() if which == part}
        for part in ("scan", "encoder")
    }


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
    scans = {name: partial(scan_both_ways, way, values) for name, way in there.items()}
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
    }
