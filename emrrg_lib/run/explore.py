"""Explorers of a model and a study: reads the arrays from the model, and writes pages into a run folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from emrrg_lib.data.images import chosen_views, read_view
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import Study
from emrrg_lib.data.study_set import finding_masks, pixels
from emrrg_lib.evaluation.predict import EXAMPLES
from emrrg_lib.explorers import (
    Explorer,
    GateExplorer,
    LoraExplorer,
    LoraTarget,
    ScanExplorer,
    WordExplorer,
    explorer_html,
    scan_memory,
)
from emrrg_lib.explorers.base import XRAY_SIDE
from emrrg_lib.files import InputError, write_text
from emrrg_lib.language.hybrid_decoder import gates_scaled, hybrid_modules
from emrrg_lib.model import EMRRG
from emrrg_lib.phantom import draw_study
from emrrg_lib.run.inference import seen
from emrrg_lib.run_folder import (
    TRAINED_RECORD,
    explorer_file,
    read_config,
    read_json,
    read_predictions,
    trace_file,
)
from emrrg_lib.trace import Trace
from emrrg_lib.training.batches import study_losses
from emrrg_lib.tuning.partial_lora import TARGETS, adapter_name
from emrrg_lib.vision.mamba import MambaMixer, VisionMamba
from emrrg_lib.vision.scan import causal_conv1d, selective_scan

LOSS_STUDIES = 24  # that the loss with and without adapters is measured on
PHANTOM_SEED = 7  # of the phantoms that take the place of data that are not there


@dataclass(frozen=True)
class Case:
    """Images as files or arrays, one a view; report, findings and name where they are known."""

    images: Sequence[Any]
    name: str = "own images"
    report: str = ""
    findings: tuple[dict, ...] | None = None


def explorers_of(model: EMRRG, case: Any, others: Sequence[Any] = ()) -> list[Explorer]:
    """The explorers that the model allows.

    Args:
        case: a `Study`, a `PhantomStudy` or a `Case`.
        others: studies with reports, on which the loss with and without adapters is measured.

    Raises:
        InputError: images that cannot be read, or a model with neither hybrid layers nor a VisionMamba.
    """
    batch = pixels([case], model.settings)
    limit = model.settings.data.view_limit
    files = chosen_views(case, limit) if isinstance(case, Study) else case.images
    images = [image if isinstance(image, np.ndarray) else read_view(image, XRAY_SIDE) for image in files]
    encoder = model.encoder.get_base_model() if isinstance(model.encoder, PeftModel) else model.encoder
    found: list[Explorer] = []
    if hybrid_modules(model.llm):

        def regenerate(scales: Mapping[int, float]) -> Trace:
            with gates_scaled(model.llm, dict(scales)):
                return model.generate(*batch, trace=True)[1][0]

        trace = regenerate({})
        found += [*_words_of(trace, images, case), GateExplorer(trace, regenerate)]
    if isinstance(encoder, VisionMamba):
        targets = lora_targets(encoder)
        losses = adapter_losses(model, others) if others and isinstance(model.encoder, PeftModel) else None
        found += [
            scan_of(model, batch, images[0]),
            LoraExplorer(targets, model.settings.partial_lora.r, losses),
        ]
    if not found:
        raise InputError("this model has neither hybrid layers nor a Mamba encoder: nothing to explore")
    return found


def _words_of(trace: Trace, images: Sequence[np.ndarray], case: Any) -> list[WordExplorer]:
    """The word explorer of the views that both have, or none for a report without words.

    A trace has a place for a view that the study lacks; a model of `mean` views has one map for all views.
    """
    views = min(trace.views, len(images))
    trace = replace(trace, attention=trace.attention[:, :, :, :views])
    masks = finding_masks(case, XRAY_SIDE)
    return [WordExplorer(images[:views], trace, masks)] if trace.words() else []


@torch.no_grad()
def scan_of(model: EMRRG, batch: tuple[Tensor, Tensor], image: np.ndarray) -> ScanExplorer:
    """The scan explorer of the middle block and the first view."""
    encoder: Any = model.encoder
    mixer, seen = encoder.layers[len(encoder.layers) // 2].mixer, {}
    hook = mixer.register_forward_pre_hook(lambda module, given: seen.update(tokens=given[0]))
    try:
        model.encode(*batch)
    finally:
        hook.remove()
    memory, outputs = scan_arrays(mixer, seen["tokens"][:1])
    orders = mixer.orders.cpu().numpy()
    return ScanExplorer(image, model.grid, orders, memory, outputs, model.cls_index)


@torch.no_grad()
def scan_arrays(mixer: MambaMixer, tokens: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Memory (G, L, L), see `scan_memory`, and each direction's output (G, L, d), of tokens (1, L, d)."""
    _, features = mixer(tokens, return_features=True)
    memory, outputs = [], []
    for number, suffix in enumerate(mixer.suffixes):
        X, Z, dt, B, C = (features[name][:, number] for name in ("X", "Z", "dt", "B", "C"))
        conv, step = getattr(mixer, f"conv1d{suffix}"), getattr(mixer, f"dt_proj{suffix}")
        x = causal_conv1d(X.mT, conv.weight[:, 0], conv.bias)  # (1, d, L)
        delta = F.softplus(step(dt)).mT
        A, D = -torch.exp(getattr(mixer, f"A{suffix}_log").float()), getattr(mixer, f"D{suffix}").float()
        y = selective_scan(x, delta, A, B.mT, C.mT, D)
        scanned = y.mT[0] * F.silu(Z[0]) / len(mixer.suffixes)
        outputs.append(mixer.out_proj(scanned)[mixer.inverse[number]].float().cpu().numpy())
        arrays = (delta[0].mT, A, B[0], x[0].mT)
        memory.append(scan_memory(*(array.float().cpu().numpy() for array in arrays)))
    return np.stack(memory), np.stack(outputs)


def lora_targets(encoder: VisionMamba) -> list[LoraTarget]:
    """Every target of Partial LoRA with the encoder's matrices, those with a trained adapter first."""
    targets = [_read_target(encoder, name) for name in TARGETS]
    return sorted(targets, key=lambda target: target.delta is None)


def _read_target(encoder: VisionMamba, name: str) -> LoraTarget:
    modules = {path: m for path, m in encoder.named_modules() if re.fullmatch(TARGETS[name], path)}
    frozen = [getattr(module, "base_layer", module) for module in modules.values()]
    weight = np.stack([matrix.weight.detach().flatten(1).float().cpu().numpy() for matrix in frozen])
    blocks = getattr(frozen[0], "row_blocks", {"all": (0, weight.shape[1])})
    adapter, delta = adapter_name(name), None
    if all(adapter in getattr(module, "lora_A", {}) for module in modules.values()):
        deltas = [module.get_delta_weight(adapter).detach().flatten(1) for module in modules.values()]
        delta = torch.stack(deltas).float().cpu().numpy()
    names = [re.sub(r"^layers\.(\d+)\.mixer\.[a-z]+_proj_?(\w*)$", r"block \1 \2", path) for path in modules]
    rows = blocks.get(name, (0, weight.shape[1]))
    return LoraTarget(name, weight, [each.strip() for each in names], blocks, rows, delta)


def adapter_losses(model: EMRRG, studies: Sequence[Any]) -> dict[str, np.ndarray]:
    """Loss of every study, (studies,) in nats per report token, with the adapters changed in turn.

    Returns:
        "as trained"; "without any"; "without T" for each target T; "rank r", all adapters cut to the best
        approximation of this rank.
    """
    config, encoder = model.settings.partial_lora, model.encoder
    pairs = {
        target: [
            (module.lora_B[name].weight.flatten(1), module.lora_A[name].weight.flatten(1))
            for module in encoder.modules()
            if (name := adapter_name(target)) in getattr(module, "lora_A", {})
        ]
        for target in config.targets
    }
    every = [pair for found in pairs.values() for pair in found]
    changes = {"as trained": ([], 0), "without any": (every, 0)}
    if len(pairs) > 1:
        changes |= {f"without {target}": (found, 0) for target, found in pairs.items()}
    changes |= {f"rank {rank}": (every, rank) for rank in (1, 2, 4, 8, 16, 32) if rank < config.r}
    losses = {}
    for name, (changed, rank) in changes.items():
        with _cut(changed, rank):
            losses[name] = study_losses(model, studies)
    return losses


@contextmanager
def _cut(pairs: Sequence[tuple[Tensor, Tensor]], rank: int) -> Iterator[None]:
    """Within the block the product of each pair (out, r), (r, in) has at most this rank."""
    kept = [(up.clone(), down.clone()) for up, down in pairs]
    try:
        with torch.no_grad():
            for up, down in pairs:
                left, sizes, right = torch.linalg.svd(up.float() @ down.float(), full_matrices=False)
                up.zero_()[:, :rank] = left[:, :rank] * sizes[:rank]
                down.zero_()[:rank] = right[:rank]
        yield
    finally:
        with torch.no_grad():
            for (up, down), (old_up, old_down) in zip(pairs, kept, strict=True):
                up.copy_(old_up), down.copy_(old_down)


def write_explorers(
    run: Path, study: str | None = None, images: Sequence[Path] = (), out: Path | None = None
) -> Path:
    """Writes one page with all explorers of a study of the run's test split, or of image files.

    Args:
        study: its number in the split, from 1 in the order of report.html, or its id.
        images: instead, the views of one study. out: the page; None: in the folder `explorers` of the run.

    Raises:
        InputError: no such study, an image that cannot be read, too many views, or no finished run.
    """
    config, others = read_config(run), []
    if images:
        case: Any = Case(images, images[0].stem)
        pixels([case], config)  # read first: a wrong file is refused before the model is loaded
        note = seen(run)
    else:
        case, others, note = _study_of(run, study or "1", config.encoder.image_size)
    model = EMRRG.from_run(run)
    name = getattr(case, "id", None) or case.name
    page = explorer_html(explorers_of(model, case, others), f"Explorers of {name}", note)
    return write_text(out or explorer_file(run, name), page)


def _study_of(run: Path, wanted: str, size: int) -> tuple[Any, Sequence[Any], str]:
    """A study of the run's test split, more of them for the loss, and a note.

    Phantoms of the same kind take the place of the demo's data where these are not there.
    """
    record = read_json(run / "run.json", TRAINED_RECORD)
    if not Path(record["data"]).exists() and read_config(run).preset == "tiny" and wanted.isdecimal():
        drawn = draw_study(PHANTOM_SEED, int(wanted), size)
        case = Case(list(drawn.images), f"phantom_{PHANTOM_SEED}_{wanted}", drawn.report, drawn.findings)
        others = [draw_study(PHANTOM_SEED, number, size) for number in range(LOSS_STUDIES)]
        return case, others, f"Synthetic X-ray. Reference report: {drawn.report}"
    data = read_dataset(record["data"], record["seed"])
    studies = data.split("test")
    by_name = {study.id: study for study in studies}
    by_name |= {str(number): study for number, study in enumerate(studies, start=1)}
    if wanted not in by_name:
        raise InputError(
            f"there is no study {wanted!r} in the test split of {record['data']}: give a number from 1 to "
            f"{len(studies)}, or an id such as {studies[0].id}"
        )
    synthetic = "Synthetic X-ray" if data.synthetic else "Not for clinical use"
    case = by_name[wanted]
    return case, studies[:LOSS_STUDIES], f"{synthetic}. Reference report: {case.report}"


def write_example_pages(run: Path) -> None:
    """Writes for each example of report.html that has a trace a page of its words and gates.

    A page that is newer than its trace stays: `write_explorers` may have written a whole one.
    """
    wanted = {row["id"] for row in read_predictions(run)[:EXAMPLES] if trace_file(run, row["id"]).is_file()}
    if not wanted:  # so it is with the reports of another system
        return
    record = read_json(run / "run.json", TRAINED_RECORD)
    studies = read_dataset(record["data"], record["seed"]).split("test")
    for study in (study for study in studies if study.id in wanted):
        source, page = trace_file(run, study.id), explorer_file(run, study.id)
        if page.is_file() and page.stat().st_mtime >= source.stat().st_mtime:
            continue
        trace = Trace.load(source)
        views = [read_view(path, XRAY_SIDE) for path in chosen_views(study, trace.views)]
        found = [*_words_of(trace, views, study), GateExplorer(trace)]
        note = "Scans, Partial LoRA and gates that write anew are drawn by the command emrrg explore."
        write_text(page, explorer_html(found, f"Explorers of {study.id}", note, stills=False))
