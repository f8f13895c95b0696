"""The page of a run: one HTML file with scores, curves and examples, whole in itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from emrrg_lib.files import write_text
from emrrg_lib.interpret import page_example, page_tables
from emrrg_lib.interpret.example import Example
from emrrg_lib.interpret.figures import loss_curve
from emrrg_lib.interpret.page_html import figure_tag


def write_report_page(
    path: str | Path, *, title: str, metrics: Mapping[str, Any], examples: Sequence[Example],
    facts: Mapping[str, Any], notes: Sequence[str] = ()
) -> Path:
    """Writes the page atomically; every text is escaped, every picture is inside the file.

    Args:
        path: of the HTML file.
        title: heading of the page.
        metrics: content of metrics.json. "rows" holds {"system", "metrics", "ci"} and may hold a
            "note" that says what the row means; metrics named "CE_F1 <observation>" make the table
            of findings. Optional keys: "support" {observation: studies that have it}; "pointing"
            {"layer", "rows": the fields of `evaluation.localization.Pointing`}; "loss" {"steps",
            "train", "validation": [[step, loss]]}. What is absent is left out of the page.
        examples: studies to show, in order; 24 make a page of less than 4 MB.
        facts: name -> value for the head of the page: what, when, seed, versions.
        notes: sentences to read before the numbers.

    Returns:
        The path.
    """
    rows = metrics.get("rows", ())
    sections = [
        ("scores", "Scores", page_tables.score_section(rows)),
        ("findings", "Findings", page_tables.finding_table(rows, metrics.get("support") or {})),
        ("pointing", "Pointing game", page_tables.pointing_table(metrics.get("pointing"))),
        ("training", "Training", _training(metrics.get("loss"))),
        ("examples", "Examples", page_example.example_section(examples)),
    ]
    sections = [section for section in sections if section[2]]
    subtitle = " · ".join(str(metrics[key]) for key in ("dataset", "split") if metrics.get(key))
    html = _TEMPLATE.format(
        title=escape(title),
        style=_asset("page.css"),
        script=_asset("page.js"),
        subtitle=f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
        facts=page_tables.fact_list(facts),
        notes="".join(f'<p class="note">{escape(str(note))}</p>' for note in notes),
        links="".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections),
        sections="".join(
            f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{heading}</h2>'
            f"{body}</section>"
            for name, heading, body in sections
        ),
    )
    return write_text(path, html)


def _training(loss: Mapping[str, Any] | None) -> str:
    """The loss curve, or nothing where none was recorded."""
    if not loss or not loss.get("steps"):
        return ""
    figure = loss_curve(
        loss["steps"], loss["train"], [tuple(pair) for pair in loss.get("validation") or ()]
    )
    return figure_tag(figure, caption=figure.alt)


def _asset(name: str) -> str:
    return (package_files("emrrg_lib.interpret") / name).read_text(encoding="utf-8")


# The policy forbids every request: what is not inside the file cannot be loaded, online or offline.
_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{title}</h1>
{subtitle}
{facts}
{notes}
<nav aria-label="Sections">{links}</nav>
</header>
<main id="main">
{sections}
</main>
<footer><p>Made by the EMRRG kit for teaching and research. Not for clinical use.</p></footer>
<script>{script}</script>
</body>
</html>
"""
