"""Uses a finished run: reports, its encoder as one plain file, its model card, a folder for a model hub."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.data.sources import find_layout, read_dataset
from emrrg_lib.data.study import Study
from emrrg_lib.data.study_set import StudySet, pixels
from emrrg_lib.evaluation.published import score_table
from emrrg_lib.files import InputError, atomic_path, processes, write_json, write_text
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


def write_card(run: Path) -> Path:
    """Writes the card of a finished run from `card.txt`, with the scores of `metrics.json` if it is there.

    Raises:
        InputError: no finished run.
    """
    config, record = read_config(run), read_json(run / "run.json", TRAINED_RECORD)
    made = f"seed {record['seed']}, {record['minutes']:.1f} minutes, {record['peak_memory_gib']:.1f} GiB"
    if (run / "metrics.json").is_file():
        scores = score_table(run, []).render("markdown")
    else:
        scores = f"Not scored yet: `emrrg evaluate --run {run.name}`."
    values = {
        "name": run.resolve().name,
        "preset": config.preset,
        "system": _system(config),
        "data": seen(run).strip("()").replace("note: the", "The", 1),
        "scores": scores,
        "made": made,
        "commit": record.get("commit") or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    card = Template(Path(__file__).with_name("card.txt").read_text(encoding="utf-8"))
    return write_text(run / "README.md", card.substitute(values))


def _system(config: EMRRGConfig) -> str:
    """The parts of the system in a sentence or two."""
    lora = config.partial_lora
    tuning = {
        "lora": f"tuned by Partial LoRA on {', '.join(lora.targets)} (r = {lora.r})",
        "full": "trained whole",
        "frozen": "frozen",
    }[config.encoder_tuning]
    layers = ", ".join(map(str, config.llm.hybrid_layers)) or "none"
    words = {
        "frozen": f"The language model `{config.llm.name}` is frozen; hybrid layers: {layers}.",
        "lora": f"The language model `{config.llm.name}` is tuned by LoRA; hybrid layers: {layers}.",
    }[config.llm.tuning]
    if config.llm.from_scratch:
        words = f"The decoder `{config.llm.name}` is trained from scratch."
    return f"The encoder `{config.encoder_weights}` ({config.encoder.image_size} px) is {tuning}. {words}"


def export_hub_folder(run: Path, out: Path) -> Path:
    """Writes a folder that is ready for a model hub: trained tensors, configuration, card. Nothing is sent.

    Raises:
        InputError: no finished run, or `out` holds files already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty: choose a new folder")
    write_card(run)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        for name in ("README.md", "config.json", "run.json", "trained.safetensors"):
            if not (run / name).is_file():
                raise InputError(f"no {name} in {run}: give the folder of a finished run")
            shutil.copyfile(run / name, temporary / name)
    return out
