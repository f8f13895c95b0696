"""Uses a finished run: reports for image files or for a split, and its encoder as one plain file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from emrrg_lib.data.sources import find_layout, read_dataset
from emrrg_lib.data.study import Study
from emrrg_lib.data.study_set import StudySet, pixels
from emrrg_lib.files import InputError, atomic_path, processes, write_json
from emrrg_lib.generation import write_reports
from emrrg_lib.model import EMRRG
from emrrg_lib.run_folder import TRAINED_RECORD, read_config, read_json, read_trained, write_predictions
from emrrg_lib.run_record import run_record
from emrrg_lib.training.batches import find_images
from emrrg_lib.tuning.partial_lora import apply_partial_lora
from emrrg_lib.tuning.policy import set_trainable
from emrrg_lib.vision.mamba import VisionMamba
from emrrg_lib.vision.weights import load_encoder, save_vision_encoder


def generate_for_files(run: Path, images: Sequence[Path], greedy: bool = False) -> list[str]:
    """The report of one study from its image files, then a note about what the model has seen.

    Raises:
        InputError: an image that cannot be read, more views than the model takes, or no run.
    """
    config = read_config(run)
    batch = pixels([images], config)  # read first: a wrong file is refused before the model is loaded
    texts = EMRRG.from_run(run).generate(*batch, **_beams(greedy))
    return [*texts, seen(run)]


def seen(run: Path) -> str:
    """A note in brackets: the data that the model of a run was trained on, and what follows from that."""
    record = read_json(run / "run.json", TRAINED_RECORD)
    data = record.get("dataset", record["data"])
    drawn = "SYNTHETIC" in data or read_config(run).preset == "tiny" and "dataset" not in record
    what = "on a real X-ray its report means nothing. " if drawn else ""
    return f"(note: the model was trained on {data}; {what}Not for clinical use.)"


def generate_folder(run: Path, folder: Path, out: Path, greedy: bool = False) -> Path:
    """Writes `out/predictions.jsonl`: id (the path in the folder) and report of each image file below it.

    There are no references, so nothing can be scored. Raises InputError: see `generate_split`.
    """
    if _is_data_set(folder):
        raise InputError(f"{folder} is a data folder: name it with --data")
    files = find_images(folder)
    studies = [Study(file.relative_to(folder).as_posix(), (file,), "", "test") for file in files]
    return _write_split(run, studies, out, greedy, data=str(folder), dataset=folder.name, split="test")


def _is_data_set(folder: Path) -> bool:
    """Whether a file of the folder describes a data set."""
    try:
        find_layout(folder)
    except InputError:
        return False
    return True


def generate_split(run: Path, data: Path, split: str, out: Path, greedy: bool = False, seed: int = 0) -> Path:
    """Writes `out/predictions.jsonl`: id, reference and generated report of every study of a split.

    Under `torchrun` the studies are shared out and each is written once.

    Args:
        run: a finished run. data: as `read_dataset` takes it. seed: of a seeded split.

    Raises:
        InputError: no run, data that cannot be read, or no study in that split.
    """
    dataset = read_dataset(data, seed)
    dataset.require_images(split)
    facts = {"data": str(data), "dataset": dataset.caption, "split": split, "seed": seed}
    return _write_split(run, dataset.split(split), out, greedy, **facts)


def _write_split(run: Path, studies: Sequence[Study], out: Path, greedy: bool, **facts: Any) -> Path:
    """Writes `run.json` and the predictions; a study without a report of its own has no `reference`."""
    state, config, started = processes(), read_config(run), time.time()
    model = EMRRG.from_run(run).to(state.device)
    with state.main_process_first():  # which fills the cache of images
        split = StudySet(studies, config)
    texts = write_reports(model, split, **_beams(greedy))
    if state.is_main_process:
        record = run_record("reports of a run", started, system=run.resolve().name, **facts)
        write_json(out / "run.json", record)
        rows = zip(studies, split.reports, texts, strict=True)
        write_predictions(out, (_prediction(*row) for row in rows))
    state.wait_for_everyone()
    return out / "predictions.jsonl"


def _prediction(study: Study, reference: str, text: str) -> dict[str, Any]:
    known: dict[str, Any] = {"reference": reference} if study.report else {}
    if study.labels and not study.report:  # these can be scored without a report
        known = {"reference": "", "labels": study.labels}
    return {"id": study.id, **known, "hypothesis": text}


def _beams(greedy: bool) -> dict[str, int]:
    return {"num_beams": 1} if greedy else {}


def tuned_encoder(run: Path) -> VisionMamba:
    """The encoder of a finished run without adapters: W + ΔW. The LLM is not needed.

    Raises:
        InputError: no finished run, missing base weights, an encoder that is not a VisionMamba, or trained
            weights that `read_trained` refuses.
    """
    config, file = read_config(run), run / "trained.safetensors"
    if config.encoder.kind != "mamba":
        raise InputError(f"{run} has a Hugging Face encoder: only a VisionMamba can be exported")
    encoder: nn.Module = load_encoder(config)
    if config.encoder_tuning == "lora":
        encoder = apply_partial_lora(encoder, config.partial_lora)
    whole = nn.ModuleDict({"encoder": encoder})  # with the names of an EMRRG
    names, state = set_trainable(whole, config), whole.state_dict()
    tensors = read_trained(file, {name: state[name] for name in names}, config, part="encoder.")
    whole.load_state_dict(tensors, strict=False)
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
