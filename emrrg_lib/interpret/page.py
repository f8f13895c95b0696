"""The page of a run: one HTML file with scores, curves and examples, whole in itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from emrrg_lib.files import write_text
from emrrg_lib.interpret import page_example
from emrrg_lib.interpret.figures import loss_curve
from emrrg_lib.interpret.page_example import Example, figure_picture
from emrrg_lib.interpret.page_tables import finding_table, pointing_tables, score_tables


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
            "note" that says what the row means; metrics named "CE_F1 <observation>" make the table
            of findings. Optional keys: "support" {observation: studies that have it}; "pointing"
            what `evaluation.localization.pointing_tables` returns; "loss" {"steps", "train",
            "validation": [[step, loss]]}. What is absent is left out of the page.
        examples: studies to show, in order; 24 make a page of less than 4 MB.
        facts: name -> value for the head of the page: what, when, seed, versions.
        notes: sentences to read before the numbers.

    Returns:
        The path.

    Raises:
        ValueError: an overlay of an example has not one view an image.
    """
    rows, cards = metrics.get("rows", ()), page_example.example_cards(examples)
    folder = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = folder.get_template("page.html").render(
        title=title,
        facts=facts,
        notes=notes,
        cards=cards,
        controls=page_example.controls(cards),
        subtitle=" · ".join(str(metrics[key]) for key in ("dataset", "split") if metrics.get(key)),
        scores=score_tables(rows),
        loss=_loss(metrics.get("loss")),
        findings=finding_table(rows, metrics.get("support") or {}),
        pointing=pointing_tables(metrics.get("pointing")),
    )
    return write_text(path, html.lstrip())


def _loss(loss: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The loss curve, or nothing where none was recorded."""
    if not loss or not loss.get("steps"):
        return None
    pairs = [tuple(pair) for pair in loss.get("validation") or ()]
    return figure_picture(loss_curve(loss["steps"], loss["train"], pairs))
