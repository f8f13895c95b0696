"""The page of a run, `report.html`: one HTML file with scores, curves and examples, whole in itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emrrg_lib.data.images import load_mask, read_view
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study import Study
from emrrg_lib.evaluation.labeler import VERSION, label_report
from emrrg_lib.evaluation.metrics import FINDING, keys, metric, place_on_page
from emrrg_lib.evaluation.predict import EXAMPLES
from emrrg_lib.files import InputError, write_text
from emrrg_lib.interpret.figures import loss_curve
from emrrg_lib.interpret.page_example import (
    Example,
    SystemReport,
    example_card,
    figure_picture,
    page_controls,
    render,
)
from emrrg_lib.run_folder import read_config, read_json, read_predictions
from emrrg_lib.trace import Trace

PAGE_PIXELS = 192  # X-rays are drawn at least this large


def write_run_page(run: Path, against: Path | None = None) -> Path:
    """Writes `report.html` into a run folder from its files alone: predictions, metrics, traces, images.

    Args:
        run: the run whose page it is; its first studies are the examples.
        against: a second run on the same studies. The page shows its model's scores and reports too.

    Returns:
        The path of the page.

    Raises:
        InputError: a file is missing, or the two runs are not scored on the same studies alike.
    """
    config, record = read_config(run), read_json(run / "run.json")
    metrics, rows = read_json(run / "metrics.json"), read_predictions(run)[:EXAMPLES]
    names, reports, title = ["Generated"], [rows], f"EMRRG, preset {config.preset}"
    if against is not None:
        names = [run.resolve().name, against.resolve().name]
        metrics = _with_model_of(metrics, read_json(against / "metrics.json"), names[1])
        reports.append(_same_studies(rows, read_predictions(against), against))
        title += f": {' against '.join(names)}"
    data = read_dataset(record["data"], record["seed"])
    studies = {study.id: study for study in data.split("test")}
    layer = (metrics.get("pointing") or {}).get("position")
    size = max(config.encoder.image_size, PAGE_PIXELS)
    examples = [
        _example(studies[own[0]["id"]], list(zip(names, own, strict=True)), run, size, layer)
        for own in zip(*reports, strict=True)
    ]
    facts = {
        "preset": config.preset,
        "seed": record["seed"],
        "training minutes": record["minutes"],
        "memory (GiB)": record["peak_memory_gib"],
        "written": time.strftime("%Y-%m-%d"),
        "commit": record["commit"] or "not a checkout",
        "versions": record["versions"],
    }
    notes = _notes(metrics, data.synthetic)
    path = run / "report.html"
    return write_report_page(path, title=title, metrics=metrics, examples=examples, facts=facts, notes=notes)


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
        examples: studies to show, in order; 24 make a page of less than 4 MB.
        facts: name → value for the head of the page: date, seed, versions.
        notes: sentences to read before the numbers.

    Returns:
        The path.

    Raises:
        ValueError: the trace of an example does not have one view per image.
    """
    rows, loss = metrics.get("rows", ()), metrics.get("loss") or {}
    cards = [example_card(index, example) for index, example in enumerate(examples)]
    pairs = [tuple(pair) for pair in loss.get("validation") or ()]
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
        loss=figure_picture(loss_curve(loss["steps"], loss["train"], pairs)) if loss.get("steps") else None,
        findings=finding_table(rows, metrics.get("support") or {}),
        pointing=pointing_tables(metrics.get("pointing")),
    )
    return write_text(path, html.lstrip())


def _with_model_of(metrics: dict, other: dict, name: str) -> dict:
    """The metrics with the other run's model as second row."""
    for key in ("dataset", "split", "references", "labeler"):
        if metrics.get(key) != other.get(key):
            raise InputError(
                f"the runs differ in '{key}' ({metrics.get(key)}; {other.get(key)}): "
                "score both alike with `emrrg evaluate --run`"
            )
    first, *rest = metrics["rows"]
    model = other["rows"][0] | {"system": f"{name}: {other['rows'][0]['system']}"}
    return metrics | {"rows": [first, model, *rest]}


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
    cut = metrics.get("references") == "emrrg"
    return ["Synthetic images, drawn by the kit: no patient's X-ray."] * synthetic + [
        "Not for clinical use.",
        f"References: {'cut as the released code scores them' if cut else 'the full cleaned reports'}. "
        f"Labels in the tables: {metrics['labeler']}, beside the examples: {VERSION}; "
        "uncertain counts as positive.",
    ]


def _example(
    study: Study, rows: Sequence[tuple[str, dict]], run: Path, size: int, layer: int | None
) -> Example:
    """One study from pairs: the name of a run and its row of predictions.jsonl. `run` is the first one."""
    first, trace = rows[0][1], run / "traces" / f"{study.id}.npz"
    return Example(
        id=study.id,
        images=[read_view(path, size) for path in study.images],
        reference=first["reference"],
        systems=[
            SystemReport(name, row["hypothesis"], label_report(row["hypothesis"]), row.get("scores", {}))
            for name, row in rows
        ],
        labels=first.get("labels") or label_report(first["reference"]),
        trace=Trace.load(trace) if trace.is_file() else None,
        layer=layer,
        masks=_masks(study, size),
    )


def _masks(study: Study, size: int) -> dict[str, np.ndarray]:
    """Observation → (view, size, size) bool, the union of its findings' masks."""
    masks: dict[str, np.ndarray] = {}
    for finding in study.findings or ():
        if finding.get("label") and any(finding["masks"]):
            drawn = [
                np.zeros((size, size), bool) if path is None else load_mask(path, size)
                for path in finding["masks"]
            ]
            masks[finding["label"]] = masks.get(finding["label"], False) | np.stack(drawn)
    return masks


Row = Mapping[str, Any]


class Table(NamedTuple):
    """A table for the page's template; `label` is its name for screen readers.

    A row is (name, note, cells), where a cell is a whole number or `_score`'s dict; a group is the heading
    above so many columns.
    """

    label: str
    caption: str
    first: str  # heading of the rows' names
    columns: Sequence[str]  # the other headings
    rows: Sequence[tuple[str, str, Sequence[Any]]]
    groups: Sequence[tuple[str, int]] = ()


def score_tables(rows: Sequence[Row]) -> list[Table]:
    """The table of the main metrics and the table of all others; an empty one is left out."""
    found = list(dict.fromkeys(key for row in rows for key in row["metrics"]))
    main = [key for key in keys("main") if key in found]
    rest = [key for key in found if key not in main and metric(key).group != FINDING]
    return [_score_table(rows, chosen, notes) for chosen, notes in ((main, True), (rest, False)) if chosen]


def _score_table(rows: Sequence[Row], shown: list[str], notes: bool) -> Table:
    """Systems × metrics with intervals; with `notes`, every control row says what it means."""
    shown = sorted(shown, key=place_on_page)
    longest = {key: max(row["metrics"].get(key) or 0.0 for row in rows) for key in shown}
    body = [
        (
            str(row["system"]),
            str(row.get("note", "")) if notes else "",
            [_score(row["metrics"].get(key), longest[key], (row.get("ci") or {}).get(key)) for key in shown],
        )
        for row in rows
    ]
    groups = [(name, len(list(same))) for name, same in groupby(metric(key).group for key in shown)]
    columns = [metric(key).label for key in shown]
    caption = "Small: 95 % intervals from resampled studies. “–”: not available for this row."
    return Table("Scores of the model and its controls", caption, "System", columns, body, groups)


def finding_table(rows: Sequence[Row], support: Mapping[str, int]) -> Table | None:
    """F1 of every finding, one column a system; None where no row has them."""
    found = list(dict.fromkeys(k for row in rows for k in row["metrics"] if metric(k).group == FINDING))
    systems = [row for row in rows if any(row["metrics"].get(key) is not None for key in found)]
    if not found:
        return None
    body = []
    for key in found:
        cells = [_score(row["metrics"].get(key), 1.0) for row in systems]
        body.append((metric(key).label, "", [int(support.get(metric(key).label, 0)), *cells]))
    caption = "F1 of each finding; generated and reference report are read by the same labeler."
    columns = ["studies", *(str(row["system"]) for row in systems)]
    return Table("F1 of every finding", caption, "Finding", columns, body)


def pointing_tables(pointing: Mapping[str, Any] | None) -> list[Table]:
    """One table for each map of the pointing game, first the map chosen on validation; [] without results."""
    if not pointing or not pointing.get("rows"):
        return []
    variants = list(pointing.get("variants") or [pointing])
    variants.insert(0, variants.pop(pointing.get("chosen", 0)))
    return [_pointing_table(variant) for variant in variants]


def _pointing_table(pointing: Mapping[str, Any]) -> Table:
    body = [
        (
            str(row["kind"]),
            "",
            [
                int(row["cases"]),
                _score(row["hit"], 1.0, (row.get("low"), row.get("high"))),
                _score(row.get("gain"), 1.0, (row.get("gain_low"), row.get("gain_high"))),
                *(_score(row.get(key), 1.0) for key in ("chance", "centre", "place")),
            ],
        )
        for row in pointing["rows"]
    ]
    place = {
        "predicts": "at the token before it",
        "own": "at its own tokens",
        "sentence": "over its whole sentence",
    }.get(pointing.get("token"), "")
    read = f" Read from {pointing['map']} {place}." if "map" in pointing else ""
    caption = (
        "A hit: the strongest patch of the word that names the finding lies within one patch of its mask."
        f"{read} Hybrid layer {pointing['layer']}, chosen on validation. Gain: hits minus those of the "
        "centre. Usual place: the patch that hits most often on validation. Localised: at most a quarter "
        "of all patches would hit; small: at most 15 %."
    )
    names = ["cases", "hit rate", "gain", "chance", "centre", "usual place"]
    return Table("Pointing game", caption, "Finding", names, body)


def _score(
    value: float | None, longest: float, interval: Sequence[float | None] | None = None
) -> dict[str, Any]:
    """A cell: the number, the length of its bar in percent of the longest, its interval."""
    share = 0.0 if value is None or longest <= 0 else max(0.0, min(1.0, value / longest))
    # Without the leading zero, so that thirteen columns fit.
    known = interval is not None and None not in interval
    ends = "–".join(f"{end:.3f}".replace("0.", ".", 1) for end in interval) if known else ""
    return {"value": value, "share": round(100 * share), "interval": ends}
