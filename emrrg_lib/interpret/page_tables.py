"""The tables of a run's page: scores with controls, F1 of each finding, pointing game, facts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from emrrg_lib.interpret.page_html import bar_cell, number, table

Row = Mapping[str, Any]

# What a row of the score table means; the first pattern found in the system's name is taken.
SYSTEM_NOTES: dict[str, str] = {
    r"constant": "one report for every study, the best on validation: what comes for nothing",
    r"shuffl": "the model reads another study's X-rays: what is left comes without looking",
    r"closed|α|alpha": "the trained model with α = 0: the language model without its image",
    r"oracle|re-?word": "the true findings in other words: the ceiling for word overlap",
    r"linear|head|probe": "supervised, on the same encoder: the ceiling for recognition",
    r"greedy": "the model, always taking the likeliest next word",
    r"beam|model|emrrg": "the model, by beam search",
}
# The columns everybody looks at; every other metric stands in the folded table below.
MAIN_METRICS = (
    "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "METEOR", "CIDEr", "CE13_micro_P",
    "CE13_micro_R", "CE13_micro_F1", "CE13_macro_F1", "CE13_example_F1", "CE14_micro_F1",
)
FINDING = "CE_F1 "  # begins the name of one observation's F1
# U+2011 is a hyphen that no line breaks at.
_NAMES = {"ROUGE_L": "ROUGE\u2011L", **{f"Bleu_{n}": f"BLEU\u2011{n}" for n in range(1, 5)}}


def system_note(system: str) -> str:
    """What a row of the score table means, or nothing where its name is unknown."""
    found = (n for pattern, n in SYSTEM_NOTES.items() if re.search(pattern, system, re.IGNORECASE))
    return next(found, "")


def metric_name(key: str) -> tuple[str, str]:
    """(group, short name): CE13_micro_F1 -> ("Findings, 13 labels", "micro F1")."""
    clinical = re.fullmatch(r"CE(\d+)(neg)?_(micro|macro|example)_(\w+)", key)
    if clinical:
        policy = ", uncertain as absent" if clinical[2] else ""
        average = "per study" if clinical[3] == "example" else clinical[3]
        return f"Findings, {clinical[1]} labels{policy}", f"{average} {clinical[4]}"
    if key in ("METEOR", "CIDEr") or key in _NAMES:
        return "Word overlap", _NAMES.get(key, key)
    return "Other", key.replace("_", " ")


def score_section(rows: Sequence[Row]) -> str:
    """The table of the main metrics, and a folded one with all others."""
    keys = list(dict.fromkeys(key for row in rows for key in row["metrics"]))
    main = [key for key in MAIN_METRICS if key in keys]
    rest = [key for key in keys if key not in main and not key.startswith(FINDING)]
    caption = "Small: 95 % intervals from resampled studies. “–”: not available for this row."
    html = _score_table(rows, main, caption, notes=True) if main else ""
    if rest:
        more = _score_table(rows, rest, caption, notes=False)
        html += f"<details><summary>All other metrics</summary>{more}</details>"
    return html


def _score_table(rows: Sequence[Row], keys: list[str], caption: str, notes: bool) -> str:
    """Systems × metrics with intervals; with `notes`, every control row says what it means."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(metric_name(key)[0], []).append(key)
    ordered = [key for group in groups.values() for key in group]
    known = {key: [row["metrics"].get(key) or 0.0 for row in rows] for key in ordered}
    body = []
    for row in rows:
        system, intervals = str(row["system"]), row.get("ci") or {}
        note = str(row.get("note") or system_note(system)) if notes else ""
        small = f"<small>{escape(note)}</small>" if note else ""
        cells = "".join(
            bar_cell(row["metrics"].get(key), max(known[key]), intervals.get(key))
            for key in ordered
        )
        body.append(f'<tr><th scope="row">{escape(system)}{small}</th>{cells}</tr>')
    upper = "".join(
        f'<th scope="colgroup" colspan="{len(members)}">{escape(group)}</th>'
        for group, members in groups.items()
    )
    lower = "".join(f'<th scope="col">{escape(metric_name(key)[1])}</th>' for key in ordered)
    head = f'<tr><th scope="col" rowspan="2">System</th>{upper}</tr><tr>{lower}</tr>'
    return table(caption, head, body, "Scores of the model and its controls")


def finding_table(rows: Sequence[Row], support: Mapping[str, int]) -> str:
    """F1 of every finding, one column a system; nothing where no row has them."""
    keys = list(dict.fromkeys(k for row in rows for k in row["metrics"] if k.startswith(FINDING)))
    systems = [row for row in rows if any(row["metrics"].get(key) is not None for key in keys)]
    body = []
    for key in keys:
        name = key.removeprefix(FINDING)
        count = f'<td class="num">{int(support[name])}</td>' if name in support else ""
        cells = "".join(bar_cell(row["metrics"].get(key), 1.0) for row in systems)
        body.append(f'<tr><th scope="row">{escape(name)}</th>{count}{cells}</tr>')
    if not body:
        return ""
    counted = '<th scope="col">studies</th>' if support else ""
    head = "".join(f'<th scope="col">{escape(str(row["system"]))}</th>' for row in systems)
    head = f'<tr><th scope="col">Finding</th>{counted}{head}</tr>'
    caption = "F1 of each finding; generated and reference report are read by the same labeler."
    return table(caption, head, body, "F1 of every finding")


def pointing_table(pointing: Mapping[str, Any] | None) -> str:
    """Does the word's strongest patch lie on the finding? Beside it chance and fixed places."""
    if not pointing or not pointing.get("rows"):
        return ""
    body = []
    for row in pointing["rows"]:
        interval = (row["low"], row["high"]) if "low" in row else None
        cells = bar_cell(row["hit"], 1.0, interval)
        cells += "".join(bar_cell(row.get(key), 1.0) for key in ("chance", "centre", "place"))
        name = f'<th scope="row">{escape(str(row["kind"]))}</th>'
        body.append(f'<tr>{name}<td class="num">{int(row["cases"])}</td>{cells}</tr>')
    names = ("Finding", "cases", "hit rate", "chance", "centre", "usual place")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    layer = pointing.get("layer")
    fixed = "" if layer is None else f" Hybrid layer {layer}, chosen on validation."
    caption = (
        "A hit: the strongest patch of the word that names the finding lies within one patch of "
        f"its mask.{fixed} Usual place: the patch that hits most often on validation."
    )
    return table(caption, f"<tr>{head}</tr>", body, "Pointing game")


def fact_list(facts: Mapping[str, Any]) -> str:
    """What, when, seed, versions: names and values."""
    items = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{_fact(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{items}</dl>' if items else ""


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(str(name))} {_fact(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return number(None) if value is None else escape(str(value))
