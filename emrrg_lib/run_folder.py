"""The run folder, the form of every run: its files.

    config.json           the whole configuration
    run.json              seed, commit, versions, hardware, minutes, memory
    trained.safetensors   the tensors that trained, under their names in `EMRRG.state_dict()`
    predictions.jsonl     one line a study: id, reference, hypothesis, scores
    metrics.json          the score table
    traces/HASH.npz       the trace of a study, see `trace_file`
    explorers/HASH.html   the page of a study's explorers
    report.html           the page

This module reads and writes the first four, and names the shape of every JSON file of a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from emrrg_lib.config import EMRRGConfig
from emrrg_lib.files import InputError, atomic_path, processes, write_json, write_text
from emrrg_lib.settings import Seed, Whole, differences, from_dict, read, to_dict

TRAINED_WITH = "trained_with"  # key in the metadata of trained.safetensors

# The shapes of the JSON files, see settings.py: what the kit reads of them.
LOSS_POINT = {"step": float, "loss": float}
RECORD = {  # run.json of any folder; `system` and `split` say whose reports predictions.jsonl holds
    "dataset?": str,
    "history?": list[LOSS_POINT],
    "system?": str,
    "split?": str,
    "cleaning?": str,
    "data?": str,
    "seed?": Seed,
    "minutes?": float,
}
TRAINED_RECORD = RECORD | {  # of stage 3; `data` is the path of its data set
    "data": str,
    "dataset?": str,  # its caption
    "seed": Seed,
    "minutes": float,
    "peak_memory_gib": float,
    "commit?": str,
    "versions": dict[str, str],
}
VALIDATION = {"step": int, "score": float}  # an entry of checkpoints/validation.json
PREDICTION = {
    "id": str,
    "reference": str,
    "hypothesis": str,
    "reference_emrrg?": str,
    "scores?": dict[str, float | None],
    "labels?": dict[str, int | None],
    "linear_head?": dict[str, int | None],
    "systems?": dict[str, str],
}
_RATES = "low high gain gain_low gain_high chance centre place".split()
_POINTED = {"kind": str, "cases": Whole, "hit": float} | {f"{name}?": float for name in _RATES}
_MAP = {"layer": int | str, "position?": Whole, "rows": list[_POINTED], "map?": str, "token?": str}
POINTING = _MAP | {"variants?": list[_MAP], "chosen?": Whole}
LEARNED = {"by": dict[str, str], "values": dict[str, dict[str, list[float]]]}
PROBES = {"pointing?": POINTING, "dataset?": str, "costs?": dict[str, float]}
_SCORES = {
    "system": str,
    "note?": str,
    "metrics": dict[str, float | None],
    "ci?": dict[str, tuple[float, float]],
}
METRICS = {
    "dataset": str,
    "split": str,
    "labeler": str,
    "rows": list[_SCORES],
    "studies?": int,
    "references?": str,
    "cleaning?": str,
    "uncertain?": str,
    "learned?": dict[str, str],
    "date?": str,
    "support?": dict[str, int],
    "pointing?": POINTING,
    "loss?": {"steps": list[float], "train": list[float], "validation?": list[tuple[float, float]]},
}


def read_json(path: Path, shape: Any = Any) -> Any:
    """Reads a JSON file of a run.

    Args:
        shape: of its content, as `emrrg_lib.settings.read` takes it.

    Raises:
        InputError: the file is missing, damaged, or of another shape.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        read(content, shape, str(path))
        return content
    except OSError as error:
        raise InputError(
            f"no {path.name} in {path.parent}: give the folder of a finished run "
            "(`emrrg demo` makes runs/demo)"
        ) from error
    except InputError as error:
        raise InputError(f"{error}; run the step that writes it again") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not readable JSON ({error}); run the step that writes it again"
        ) from error


def read_metrics(run: Path) -> dict[str, Any]:
    """The score table of a run, with at least one row, and one loss for each step."""
    path = Path(run) / "metrics.json"
    metrics = read_json(path, METRICS)
    loss = metrics.get("loss") or {"steps": [], "train": []}
    if not metrics["rows"] or len(loss["steps"]) != len(loss["train"]):
        raise InputError(f"{path} lacks rows or values of the loss; score the run with `emrrg evaluate`")
    return metrics


def read_config(run: str | Path) -> EMRRGConfig:
    """The configuration of a run."""
    path = Path(run) / "config.json"
    return from_dict(read_json(path, dict), EMRRGConfig, str(path))


def write_config(run: Path, config: EMRRGConfig) -> None:
    """Writes `config.json`."""
    write_json(run / "config.json", to_dict(config))


def _tuning(config: EMRRGConfig) -> dict[str, Any]:
    """The settings without which trained weights mean something else, though their shapes may be equal."""
    names = "hybrid_layers gate_input gate visual_in_prompt tuning".split()
    values = to_dict(config)
    lora = {key: values["partial_lora"][key] for key in ("targets", "r", "scale")}
    return {
        "encoder_tuning": config.encoder_tuning,
        "partial_lora": lora if config.encoder_tuning == "lora" else {},
        "llm": {name: values["llm"][name] for name in names},
        "data": {"views": config.data.views, "prompt": config.data.prompt},
    }


def write_trained(run: Path, model, name: str = "trained.safetensors") -> Path:
    """Writes the tensors that trained, under their names in `EMRRG.state_dict()`.

    The file's metadata holds the settings that the weights were trained with. Of several processes, which
    all have to call this, one writes.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.trained_state().items()}
    if not processes().is_main_process:
        return run / name
    with atomic_path(run / name) as temporary:
        save_file(tensors, temporary, {TRAINED_WITH: json.dumps(_tuning(model.settings))})
    return run / name


def read_trained(
    path: Path, wanted: Mapping[str, Tensor], config: EMRRGConfig | None = None, part: str = ""
) -> dict[str, Tensor]:
    """Reads the tensors that trained; every reader of such a file comes through here.

    Args:
        wanted: tensors of the model that train, by their names in the file.
        config: of the model; None where the file does not say what it was trained with.
        part: how the names in `wanted` begin. The file may hold tensors of other parts.

    Raises:
        InputError: the file is missing or damaged, holds NaN or infinity, has other names or shapes than
            `wanted`, or was trained with another LoRA or other hybrid layers than `config`.
    """
    if not path.is_file():
        raise InputError(f"no trained weights at {path}; finish the run with `emrrg train`")
    try:
        with safe_open(path, "pt") as file:
            made = json.loads((file.metadata() or {}).get(TRAINED_WITH, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(part)}
    except Exception as error:  # safetensors raises its own type for a damaged file
        raise InputError(f"{path} is damaged ({error}); train again or copy it again") from error
    now = json.loads(json.dumps(_tuning(config))) if made and config else made
    changed = "; ".join(differences(made, now))
    wrong = sorted(wanted.keys() ^ tensors.keys()) or sorted(
        k for k in wanted if wanted[k].shape != tensors[k].shape
    )
    if wrong:
        raise InputError(
            f"{path} does not fit this model: {len(wrong)} tensors differ, first "
            f"'{wrong[0]}'; was the config changed? {changed}".rstrip()
        )
    if changed:
        raise InputError(
            f"{path} was trained with other settings than its config.json has ({changed}); "
            "give the run its own config.json again"
        )
    if bad := sorted(k for k in tensors if not tensors[k].isfinite().all()):
        raise InputError(
            f"{path} holds NaN or infinity in {len(bad)} tensors, first '{bad[0]}'; train again with a "
            "lower learning rate or copy it again"
        )
    return tensors


def write_predictions(run: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes `predictions.jsonl`, one object a study."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    return write_text(run / "predictions.jsonl", "".join(f"{line}\n" for line in lines))


def read_predictions(run: Path) -> list[dict[str, Any]]:
    """Reads `predictions.jsonl`. InputError names the line that is wrong or repeats an id."""
    path = Path(run) / "predictions.jsonl"
    if not path.is_file():
        raise InputError(f"no predictions.jsonl in {run}: run `emrrg train` or `emrrg demo` first")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged ({error}); run the step that writes it again") from error
    rows, seen = [], set()
    need = {key: PREDICTION[key] for key in ("id", "reference", "hypothesis")}
    # splitlines() would also cut at characters that JSON does not escape, such as U+2028
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            read(row, need, where)
        except (ValueError, RecursionError) as error:
            message = f"{where}: expected an object with id, reference and hypothesis"
            raise InputError(message) from error
        read(row, PREDICTION, where)
        if row["id"] in seen:
            raise InputError(f"{path}, line {number}: the id '{row['id']}' occurs a second time")
        seen.add(row["id"])
        rows.append(row)
    if not rows:
        raise InputError(f"{path} is empty: there is nothing to score")
    return rows


def _of_study(folder: Path, study: str, suffix: str) -> Path:
    """A study's file. It has a hash for its name, because an id could be any path."""
    return folder / f"{hashlib.sha256(study.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}{suffix}"


def trace_file(run: Path, study: str) -> Path:
    """The file of a study's trace."""
    return _of_study(run / "traces", study, ".npz")


def explorer_file(run: Path, study: str) -> Path:
    """The page of a study's explorers."""
    return _of_study(run / "explorers", study, ".html")
