"""Reports for a split, and for any image files by a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .data.dataset import read_dataset
from .data.images import read_view
from .data.study_set import StudySet, stack_views
from .distributed import gather, processes
from .errors import InputError
from .model import EMRRG
from .runs import read_config, write_predictions

BATCH = 8  # studies generated together
PHANTOM_ONLY = ("(note: the tiny model has seen PhantomCXR only; on a real X-ray its report means "
                "nothing. Not for clinical use.)")


def write_reports(model: EMRRG, studies: StudySet, indices: Sequence[int] | None = None,
                  describe: str = "writing reports", **settings) -> list[str]:
    """One generated report per study, in order, with a progress bar.

    Several processes share the batches; each returns all reports.

    Args:
        model: the model. studies: the split. indices: which studies, None for all.
        describe: label of the progress bar. settings: fields of `GenerationConfig` to override.
    """
    state = processes()
    indices = list(range(len(studies)) if indices is None else indices)
    starts, mine = range(0, len(indices), BATCH), []
    with tqdm(total=len(indices), desc=describe, unit="report", leave=False,
              disable=not state.is_main_process) as bar:
        for start in starts[state.process_index::state.num_processes]:
            mine.append((start, model.generate(*studies.images(indices[start:start + BATCH]), **settings)))
            bar.update(min(BATCH * state.num_processes, len(indices) - bar.n))
    return [text for _, texts in sorted(gather(mine)) for text in texts]


def generate_reports(run: Path, images: Sequence[Path], greedy: bool = False) -> list[str]:
    """The report of one study from its image files, then a note where the model knows phantoms only.

    Raises:
        InputError: an image that cannot be read, more views than the model takes, or no run.
    """
    config = read_config(run)
    limit = None if config.data.views == "mean" else config.data.max_views
    if not images or (limit and len(images) > limit):
        raise InputError(f"{len(images)} images given: this model takes 1 to {limit} views of one study")
    views = [read_view(path, config.encoder.image_size) for path in images]
    model = EMRRG.from_run(run)
    texts = model.generate(*stack_views([views], limit), **_beams(greedy))
    return texts + ([PHANTOM_ONLY] if config.preset == "tiny" else [])


def generate_split(run: Path, data: Path, split: str, out: Path, greedy: bool = False, seed: int = 0) -> Path:
    """Writes `out/predictions.jsonl`: id, reference and generated report of every study of a split.

    Under `torchrun` the studies are shared out and each is written once.

    Args:
        run: a finished run. data: as `read_dataset` takes it. seed: of a seeded split.

    Raises:
        InputError: no run, data that cannot be read, or no study in that split.
    """
    state = processes()
    with state.main_process_first():  # which fills the cache of images
        studies = StudySet(read_dataset(data, seed).split(split), read_config(run))
    model = EMRRG.from_run(run).to(state.device)
    texts = write_reports(model, studies, **_beams(greedy))
    if state.is_main_process:
        write_predictions(out, ({"id": study.id, "reference": reference, "hypothesis": text} for
                                study, reference, text in zip(studies.studies, studies.reports, texts,
                                                              strict=True)))
    state.wait_for_everyone()
    return out / "predictions.jsonl"


def _beams(greedy: bool) -> dict[str, int]:
    return {"num_beams": 1} if greedy else {}
