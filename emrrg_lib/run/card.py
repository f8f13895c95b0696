"""The model card of a run, `README.md`: data, scores, use, licences; and a folder for a model hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.evaluation.published import score_table
from emrrg_lib.files import InputError, atomic_path, write_text
from emrrg_lib.run.inference import seen
from emrrg_lib.run_folder import TRAINED_RECORD, read_config, read_json

_HEAD = """---
library_name: emrrg-kit
license: other
language: en
pipeline_tag: image-to-text
tags: [radiology, chest-x-ray, report-generation, vision-mamba, partial-lora]
---
"""
_USE = """## Intended use

Teaching and research on report generation. **Not for clinical use**: no report of this model has been read by
a physician, and no score here says that a report is safe.

## Licences

`trained.safetensors` holds the tensors that were trained. It needs the base weights of the encoder and of the
language model, which keep their own licences. It comes from the data above, whose terms apply to it. The code
is MIT.
"""


def write_card(run: Path) -> Path:
    """Writes the card of a finished run; the scores come from its `metrics.json`, if it is there.

    Raises:
        InputError: no finished run.
    """
    config, record = read_config(run), read_json(run / "run.json", TRAINED_RECORD)
    made = f"seed {record['seed']}, {record['minutes']:.1f} minutes, {record['peak_memory_gib']:.1f} GiB"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    if (run / "metrics.json").is_file():
        scores = score_table(run, []).render("markdown")
    else:
        scores = f"Not scored yet: `emrrg evaluate --run {run.name}`."
    text = f"""{_HEAD}
# {run.resolve().name}: EMRRG, preset `{config.preset}`

{_system(config)}

## Data

{seen(run).strip("()").replace("note: the", "The", 1)}

## Scores

{scores}

The rows below the model are controls: they show what a report that saw no image, or another image, scores.

{_USE}
## Made

{made}; commit {record.get("commit") or "unknown"}; {versions}. `config.json` has every setting,
`emrrg generate --run FOLDER --images FILE` writes a report.
"""
    return write_text(run / "README.md", text)


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
