"""Reports for a split, and for any image files by a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .data.images import read_view
from .data.study_set import StudySet, stack_views
from .errors import InputError
from .model import EMRRG
from .runs import read_config

BATCH = 8  # studies generated together
PHANTOM_ONLY = ("(note: the tiny model has seen PhantomCXR only; on a real X-ray its report means "
                "nothing. Not for clinical use.)")


def write_reports(model: EMRRG, studies: StudySet, indices: Sequence[int] | None = None,
                  describe: str = "writing reports", **settings) -> list[str]:
    """One generated report per study, in order, with a progress bar.

    Args:
        model: the model. studies: the split. indices: which studies, None for all.
        describe: label of the progress bar. settings: fields of `GenerationConfig` to override.
    """
    indices = list(range(len(studies)) if indices is None else indices)
    texts = []
    with tqdm(total=len(indices), desc=describe, unit="report", leave=False) as bar:
        for start in range(0, len(indices), BATCH):
            part = indices[start:start + BATCH]
            texts += model.generate(*studies.images(part), **settings)
            bar.update(len(part))
    return texts


def generate_reports(run: Path, images: Sequence[Path], greedy: bool = False) -> list[str]:
    """The report of one study from its image files, then a note where the model knows phantoms only.

    Raises:
        InputError: an image that cannot be read, more views than the model takes, or no run.
    """
    config = read_config(run)
    if not 1 <= len(images) <= config.data.max_views:
        raise InputError(f"{len(images)} images given: this model takes 1 to {config.data.max_views} "
                         "views of one study")
    views = [read_view(path, config.encoder.image_size) for path in images]
    model = EMRRG.from_run(run)
    settings = {"num_beams": 1} if greedy else {}
    texts = model.generate(*stack_views([views], config.data.max_views), **settings)
    return texts + ([PHANTOM_ONLY] if config.preset == "tiny" else [])
