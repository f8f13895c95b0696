"""The base encoder at 224 px, forward and backward, beside its Linear layers alone.

The Linear layers are run on the shapes that they see in the encoder, nothing else. Goal: the whole encoder
takes at most 1.4 times as long.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emrrg_lib.bench.timing import compare, interleaved
from emrrg_lib.config import EncoderConfig
from emrrg_lib.vision.mamba import VisionMamba

Call = tuple[nn.Linear, Tensor, Tensor]  # a layer, its input, a gradient of its output


def linear_calls(encoder: nn.Module, images: Tensor) -> list[Call]:
    """Every call of a Linear layer in one forward pass, with random numbers of the shapes seen."""
    calls: list[Call] = []

    def note(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, torch.randn(inputs[0].shape, requires_grad=True), torch.randn(output.shape)))

    hooks = [m.register_forward_hook(note) for m in encoder.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        encoder(images)
    for hook in hooks:
        hook.remove()
    return calls


def run(quick: bool = False) -> dict:
    """Seconds of the whole encoder with both scan backends and of its Linear layers, and their ratios."""
    torch.manual_seed(0)
    sizes = EncoderConfig(image_size=224, depth=1 if quick else 12, drop_path=0.0)
    encoder, images = VisionMamba(sizes), torch.randn(1 if quick else 2, 3, 224, 224)
    calls, parameters = linear_calls(encoder, images), list(encoder.parameters())
    weights = [p for layer, _, _ in calls for p in layer.parameters()]

    def whole(backend: str) -> None:
        for block in encoder.layers:
            block.mixer.scan_backend = backend
        torch.autograd.grad(encoder(images).sum(), parameters)

    def linears() -> None:
        outputs = [layer(x) for layer, x, _ in calls]
        torch.autograd.grad(outputs, [*weights, *(x for _, x, _ in calls)], [g for _, _, g in calls])

    seconds = interleaved(
        {
            "linears": linears,
            "encoder": lambda: whole("auto"),
            "encoder with the reference scan": lambda: whole("reference"),
        },
        rounds=1 if quick else 3,
    )
    return {"batch": len(images), "image_size": 224, "depth": sizes.depth, **compare(seconds, "linears")}
