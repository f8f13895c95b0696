"""Reports for a split, and for any image files by a finished run.

A run's encoder as one plain file: LoRA merged in, under upstream's key names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from emrrg_lib.data.images import read_view
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study_set import StudySet, stack_views
from emrrg_lib.files import InputError, atomic_path, gather, processes
from emrrg_lib.model import EMRRG
from emrrg_lib.run_folder import read_config, write_predictions
from emrrg_lib.tuning.partial_lora import apply_partial_lora
from emrrg_lib.vision.mamba import VisionMamba
from emrrg_lib.vision.weights import load_encoder, save_vision_encoder

BATCH = 8  # studies generated together
PHANTOM_ONLY = (
    "(note: the tiny model has seen PhantomCXR only; on a real X-ray its report means "
    "nothing. Not for clinical use.)"
)


def write_reports(
    model: EMRRG,
    studies: StudySet,
    indices: Sequence[int] | None = None,
    describe: str = "writing reports",
    **settings,
) -> list[str]:
    """One generated report per study, in order, with a progress bar.

    Several processes share the batches; each returns all reports.

    Args:
        model: the model. studies: the split. indices: which studies, None for all.
        describe: label of the progress bar. settings: fields of `GenerationConfig` to override.
    """
    state = processes()
    indices = list(range(len(studies)) if indices is None else indices)
    starts, mine = range(0, len(indices), BATCH), []
    with tqdm(
        total=len(indices), desc=describe, unit="report", leave=False, disable=not state.is_main_process
    ) as bar:
        for start in starts[state.process_index :: state.num_processes]:
            mine.append((start, model.generate(*studies.images(indices[start : start + BATCH]), **settings)))
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
        write_predictions(
            out,
            (
                {"id": study.id, "reference": reference, "hypothesis": text}
                for study, reference, text in zip(studies.studies, studies.reports, texts, strict=True)
            ),
        )
    state.wait_for_everyone()
    return out / "predictions.jsonl"


def _beams(greedy: bool) -> dict[str, int]:
    return {"num_beams": 1} if greedy else {}


PREFIX = "encoder."  # of the encoder's tensors in trained.safetensors


def tuned_encoder(run: Path) -> VisionMamba:
    """The encoder of a finished run without adapters: W + ΔW. The LLM is not needed.

    Raises:
        InputError: no finished run, missing base weights, or an encoder that is no VisionMamba.
    """
    config, file = read_config(run), run / "trained.safetensors"
    if config.encoder.kind != "mamba":
        raise InputError(f"{run} has a Hugging Face encoder: only a VisionMamba can be exported")
    if not file.is_file():
        raise InputError(f"no trained weights at {file}; finish the run with `emrrg train`")
    encoder: nn.Module = load_encoder(config)
    if config.encoder_tuning == "lora":
        encoder = apply_partial_lora(encoder, config.partial_lora)
    tensors = {k.removeprefix(PREFIX): v for k, v in load_file(file).items() if k.startswith(PREFIX)}
    if unknown := sorted(tensors.keys() - encoder.state_dict().keys()):
        raise InputError(f"{file} does not fit its config.json: the encoder has no '{unknown[0]}'")
    encoder.load_state_dict(tensors, strict=False)
    return encoder.merge_and_unload() if isinstance(encoder, PeftModel) else encoder


def export_encoder(run: Path, out: Path) -> Path:
    """Writes `tuned_encoder(run)`: `.safetensors`, or `.pth` in upstream's `model` container.

    Raises:
        InputError: see `tuned_encoder`; or another suffix.
    """
    if out.suffix not in (".safetensors", ".pth"):
        raise InputError(f"cannot write {out}: name a .safetensors or a .pth file")
    encoder = tuned_encoder(run)
    if out.suffix == ".safetensors":
        return save_vision_encoder(encoder, out)
    with atomic_path(out) as temporary:
        torch.save({"model": encoder.state_dict()}, temporary)
    return out
