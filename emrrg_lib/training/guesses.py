"""What stage 1 guesses after a short training, as notebook 08 shows it (CXPMRG-Bench §2).

`python -m emrrg_lib.training.guesses FILE.npz` trains and stores; about 3 minutes on one core.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emrrg_lib.config import ENCODERS
from emrrg_lib.data.images import normalise, read_view
from emrrg_lib.data.nih_cxr14 import NIH_SAMPLES
from emrrg_lib.files import KIT, atomic_path
from emrrg_lib.phantom import draw_study, write_phantom
from emrrg_lib.training.batches import find_images
from emrrg_lib.training.pretrain import STAGE1_TINY, run_stage1
from emrrg_lib.training.stage1 import Stage1Model, load_stage1, normalised_pixels, pick

STORED = KIT / "data" / "results" / "stage1" / "guesses.npz"
CHEST = NIH_SAMPLES / "00001323_001.jpg"  # no image of the training is real


@torch.no_grad()
def guess(model: Stage1Model, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """One image (1, 3, H, W) → the target and the guess of the wanted patches, each (Q, 3 · P²).

    With the objective `arg` the wanted patches are those of clusters 2, 3, … in cluster order.
    """
    seen, wanted = model.plan(1, pixel_values.device)
    taps = model.encode(pick(model.patch_embed(pixel_values) + model.pos_embed, seen))
    target = normalised_pixels(pixel_values, model.sizes.patch_size)
    return pick(target, wanted)[0], model.decode(taps, wanted)[0]


def example_images(size: int) -> dict[str, Tensor]:
    """A phantom of another seed than the training's, and a real chest, each (1, 3, size, size)."""
    phantom = np.dstack([draw_study(3, 8, size).images[0]] * 3)
    return {"phantom": normalise([phantom]), "chest": normalise([read_view(CHEST, size)])}


def store_guesses(out: str | Path, steps: int = 300, studies: int = 1000, batch_size: int = 24) -> Path:
    """Trains stage 1 at tiny size on phantoms and writes targets and guesses as float16 to `out`."""
    sizes, recipe = ENCODERS["tiny"], replace(STAGE1_TINY, steps=steps, batch_size=batch_size)
    with tempfile.TemporaryDirectory() as folder:
        data = write_phantom(Path(folder) / "data", studies, seed=21, size=sizes.image_size)
        model = load_stage1(run_stage1(find_images(data), sizes, recipe, Path(folder) / "stage1")).eval()
    found: dict[str, Any] = {}
    for name, image in example_images(sizes.image_size).items():
        for part, patches in zip(("target", "guess"), guess(model, image), strict=True):
            found[f"{name}_{part}"] = patches.numpy().astype(np.float16)
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **found)
    return Path(out)


if __name__ == "__main__":
    store_guesses(sys.argv[1])
