"""The page of a run, `report.html`: one HTML file with scores, curves and examples, whole in itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emrrg_lib.data.images import read_view
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import Study
from emrrg_lib.evaluation.labeler import VERSION, label_report
from emrrg_lib.evaluation.metrics import metric
from emrrg_lib.evaluation.predict import EXAMPLES
from emrrg_lib.evaluation.published import with_model_of
from emrrg_lib.files import InputError, atomic_path, write_text
from emrrg_lib.interpret.figures import gate_strip, loss_curve, reports_figure
from emrrg_lib.interpret.page_example import (
    Example,
    SystemReport,
    example_card,
    figure_picture,
    page_controls,
    render,
)
from emrrg_lib.interpret.page_tables import finding_table, pointing_tables, score_tables
from emrrg_lib.interpret.style import Picture
from emrrg_lib.run_folder import (
    RECORD,
    TRAINED_RECORD,
    explorer_file,
    read_config,
    read_json,
    read_metrics,
    read_predictions,
    trace_file,
)
from emrrg_lib.trace import Trace

PAGE_PIXELS = 192  # X-rays are drawn at least this large
FACTS = {"seed": "seed", "training minutes": "minutes", "memory (GiB)": "peak_memory_gib"}


def write_run_page(run: Path, against: Sequence[Path] = (), figures: str | None = None) -> Path:
    """Writes `report.html` into a run folder from its files alone: predictions, metrics, traces, images.

    Args:
        run: the run whose page it is; its first studies are the examples. Folders that no training made have
            no traces, and images only where their data have them.
        against: other runs on the same studies. The page shows their systems' scores and reports too.
        figures: "svg" or "pdf" also writes the loss curve and one figure a study into `run/figures`.

    Returns:
        The path of the page.

    Raises:
        InputError: a file is missing, or the runs are not scored on the same studies alike.
    """
    trained = (run / "config.json").is_file()
    config = read_config(run) if trained else None
    shape = TRAINED_RECORD if trained else RECORD
    record = read_json(run / "run.json", shape) if trained or (run / "run.json").is_file() else {}
    metrics, rows = read_metrics(run), read_predictions(run)[:EXAMPLES]
    names, reports = ["Generated"], [rows]
    title = f"EMRRG, preset {config.preset}" if config else str(metrics["rows"][0]["system"])
    if against:
        names = [folder.resolve().name for folder in (run, *against)]
        for place, other in enumerate(against, 1):
            metrics = with_model_of(metrics, other, place)
            reports.append(_same_studies(rows, read_predictions(other), other))
        title = (f"{title}: " if trained else "") + " against ".join(names)
    studies, synthetic = _studies(run, rows, record)
    size = max(config.encoder.image_size, PAGE_PIXELS) if config else PAGE_PIXELS
    examples = [
        _example(studies[own[0]["id"]], list(zip(names, own, strict=True)), run, size, trained)
        for own in zip(*reports, strict=True)
    ]
    facts = {"preset": config.preset} if config else {}
    facts |= {name: record[key] for name, key in FACTS.items() if config}
    facts |= {"written": time.strftime("%Y-%m-%d"), "commit": record.get("commit") or "not a checkout"}
    facts |= {"versions": record["versions"]} if "versions" in record else {}
    if figures:
        write_figures(run / "figures", figures, metrics, examples)
    notes = _notes(metrics, synthetic)
    path = run / "report.html"
    return write_report_page(path, title=title, metrics=metrics, examples=examples, facts=facts, notes=notes)


def _studies(run: Path, rows: Sequence[dict], record: dict) -> tuple[dict[str, Study], bool]:
    """The studies of the page by their ids, and whether their images are synthetic."""
    if record.get("data") is None:
        return {row["id"]: Study(row["id"], (), row["reference"], "test") for row in rows}, False
    split = record.get("split") or "test"
    data = read_dataset(record["data"], record["seed"])
    studies = {study.id: study for study in data.split(split)}
    if strange := [row["id"] for row in rows if row["id"] not in studies]:
        raise InputError(
            f"the {split} split of {record['data']} does not have {len(strange)} studies of "
            f"{run / 'predictions.jsonl'}, first {strange[0]!r}; give the run its own data again"
        )
    return studies, data.synthetic


def write_report_page(
    path: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    examples: Sequence[Example],
    facts: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Path:
    """Writes the page atomically; every text is escaped, every picture is inside the file.

    Args:
        path: of the HTML file.
        title: heading of the page.
        metrics: content of metrics.json. "rows" holds {"system", "metrics", "ci"} and may hold a
            "note" with the meaning of the row; metrics named "CE_F1 <observation>" make the table
            of findings. Optional keys: "support" {observation: number of studies that have it};
            "pointing", as `evaluation.pointing.pointing_tables` returns it; "loss" {"steps", "train",
            "validation": [[step, loss]]}. The page leaves out the parts whose key is absent.
        examples: studies to show, in order; 24 make a page of less than 3 MB.
        facts: name → value for the head of the page: date, seed, versions.
        notes: sentences to read before the numbers.

    Returns:
        The path.
    """
    rows, curve = metrics.get("rows", ()), _loss_picture(metrics)
    cards = [example_card(index, example) for index, example in enumerate(examples)]
    html = render(
        "page.html",
        Path(__file__).parent,
        title=title,
        facts=facts,
        notes=notes,
        cards=cards,
        controls=page_controls(cards),
        subtitle=" · ".join(str(metrics[key]) for key in ("dataset", "split") if metrics.get(key)),
        scores=score_tables(rows),
        loss=figure_picture(curve) if curve else None,
        findings=finding_table(rows, metrics.get("support") or {}),
        pointing=pointing_tables(metrics.get("pointing")),
    )
    return write_text(path, html.lstrip())


def write_figures(folder: Path, style: str, metrics: Mapping[str, Any], examples: Sequence[Example]) -> None:
    """Writes the loss curve, and of each study its reports and its gates, as `style`: "svg" or "pdf"."""
    pictures: dict[str, Picture] = {}
    if curve := _loss_picture(metrics):
        pictures["loss"] = curve
    for number, example in enumerate(examples, 1):
        reports = [(system.name, system.text) for system in example.systems]
        pictures[f"study{number:02}"] = reports_figure(example.images, example.reference, reports)
        if example.trace and example.trace.tokens:
            pictures[f"study{number:02}_gates"] = gate_strip(example.trace)
    for name, picture in pictures.items():
        with atomic_path(folder / f"{name}.{style}") as temporary:
            picture.savefig(temporary, format=style, metadata={"Title": picture.alt[:200]})


def _loss_picture(metrics: Mapping[str, Any]) -> Picture | None:
    loss = metrics.get("loss") or {}
    pairs = [tuple(pair) for pair in loss.get("validation") or ()]
    return loss_curve(loss["steps"], loss["train"], pairs) if loss.get("steps") else None


def _same_studies(rows: Sequence[dict], others: Sequence[dict], against: Path) -> list[dict]:
    """The rows of the other run for the studies of `rows`, in their order."""
    known = {row["id"]: row for row in others}
    for row in rows:
        if row["id"] not in known:
            raise InputError(
                f"{against} has no report of study '{row['id']}': give a run on the same studies"
            )
    return [known[row["id"]] for row in rows]


def _notes(metrics: dict, synthetic: bool) -> list[str]:
    kind = metrics.get("references")
    learned: dict[str, list[str]] = {}
    for key, by in (metrics.get("learned") or {}).items():
        learned.setdefault(by, []).append(metric(key).label)
    said = {"emrrg": "cut as the released code scores them", "labels alone": "labels of the data, no reports"}
    return ["Synthetic images, drawn by the kit: no patient's X-ray."] * synthetic + [
        "Not for clinical use.",
        f"References: {said.get(kind or '', 'the full cleaned reports')}. "
        f"Labels in the tables: {metrics['labeler']}, beside the examples: {VERSION}; "
        "uncertain counts as positive.",
        *(f"{'; '.join(labels)}: {by}." for by, labels in learned.items()),
    ]


def _example(study: Study, rows: Sequence[tuple[str, dict]], run: Path, size: int, trained: bool) -> Example:
    """One study from pairs: the name of a run and its row of predictions.jsonl. `run` is the first one."""
    first, trace, explorer = rows[0][1], trace_file(run, study.id), explorer_file(run, study.id)
    return Example(
        id=study.id,
        images=[read_view(path, size) for path in study.images if trained or path.is_file()],
        reference=first["reference"],
        systems=[
            SystemReport(name, row["hypothesis"], label_report(row["hypothesis"]), row.get("scores") or {})
            for name, row in rows
        ],
        labels=first.get("labels") or label_report(first["reference"]),
        trace=Trace.load(trace) if trace.is_file() else None,
        explorer=explorer.relative_to(run).as_posix() if explorer.is_file() else "",
    )
