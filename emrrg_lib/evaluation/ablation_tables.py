"""Ablation tables read again: the spread over seeds, and what of a table luck alone can make (notebook 09).

The tables are those that `emrrg ablate` writes. A row is compared by its mean over seeds; luck is the
standard deviation over seeds, pooled over all rows of a table, and the interval over test studies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emrrg_lib.evaluation.metrics import METRICS
from emrrg_lib.evaluation.published import published
from emrrg_lib.files import KIT, TINY_DIR, InputError
from emrrg_lib.run_folder import read_metrics

RESULTS = KIT / "data" / "results"
DRAWS = 2000
NORMAL_95 = 3.92  # standard deviations between the two ends of a 95 % interval


@dataclass(frozen=True)
class StoredTable:
    """One ablation: its name, its `results.csv` and its `run.json`."""

    name: str
    frame: pd.DataFrame
    record: dict[str, Any]

    @cached_property
    def trainings(self) -> pd.DataFrame:
        """The lines of this run, each training once: a row that shares another's is left out."""
        mine = self.frame[self.frame["source"] == "this run"]
        return mine[~mine["note"].astype(str).str.startswith("same settings as")]

    @cached_property
    def trained(self) -> pd.Series:
        """Trained weights of each row."""
        return self.trainings.groupby("row", sort=False)["trained"].first().astype(int)

    @cached_property
    def controls(self) -> pd.DataFrame:
        """The scores of the controls; the constant report and the shuffled images are always there."""
        return self.frame[self.frame["source"] == "control"].set_index("row")

    def paper(self, dataset: str) -> pd.DataFrame:
        """The published values on one data set, a line for each row that has them."""
        return self.frame[self.frame["source"] == f"paper, {dataset}"].set_index("row")

    def spread(self, metric: str) -> pd.DataFrame:
        """Mean, sd (n − 1, NaN for one seed) and seeds of each row, in the order of the table."""
        groups = self.trainings.dropna(subset=metric).groupby("row", sort=False)[metric]
        return groups.agg(mean="mean", sd="std", seeds="size")

    def pooled(self, metric: str) -> float | None:
        """The standard deviation over seeds, all rows together; None where every row has one seed."""
        found = self.spread(metric)
        freedom = (found["seeds"] - 1).sum()
        return float(np.sqrt((found["sd"] ** 2 * (found["seeds"] - 1)).sum() / freedom)) if freedom else None

    def paired(self, metric: str) -> float:
        """The standard deviation of the difference of two rows of one seed, pooled over all pairs."""
        scores = self.trainings.pivot(index="seed", columns="row", values=metric).to_numpy()
        first, second = np.triu_indices(scores.shape[1], 1)
        return float(np.sqrt(np.var(scores[:, first] - scores[:, second], axis=0, ddof=1).mean()))


def read_tables(folder: Path = RESULTS) -> dict[str, StoredTable]:
    """Name → table, of every folder in `folder` that holds a `results.csv` with a row that ran.

    Raises:
        InputError: there is none.
    """
    found = {}
    for path in sorted(folder.glob("*/results.csv")):
        record = json.loads(path.with_name("run.json").read_text(encoding="utf-8"))
        table = StoredTable(path.parent.name, pd.read_csv(path), record)
        if len(table.trainings):
            found[table.name] = table
    if not found:
        raise InputError(f"{folder} holds no results.csv: `emrrg ablate NAME --out {folder}/NAME`")
    return found


def overview(tables: Iterable[StoredTable]) -> pd.DataFrame:
    """What each table ran: rows, seeds of a row, steps, rows left out, minutes of all trainings."""
    lines = []
    for table in tables:
        seeds = table.trainings.groupby("row").size()
        steps = dict(value.split("=", 1) for value in table.record["values"])
        lines.append(
            {
                "table": table.name,
                "rows": len(seeds),
                "seeds": f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()}–{seeds.max()}",
                "warm + joint steps": f"{steps['train.warm_steps']} + {steps['train.steps']}",
                "left out": ", ".join(table.frame[table.frame["source"] == "left out"]["row"]) or "–",
                "minutes": round(table.trainings["minutes"].sum()),
            }
        )
    return pd.DataFrame(lines).set_index("table")


def verdicts(tables: Iterable[StoredTable], metric: str) -> pd.DataFrame:
    """The best row of each table, the rows whose mean ± sd overlaps with its, and the controls.

    `above both` counts the rows above the constant report and the shuffled images.
    """
    lines = {}
    for table in tables:
        found, controls = table.spread(metric), table.controls[metric][["constant report", "shuffled images"]]
        best = found.loc[found["mean"].idxmax()]
        others = found.drop(best.name)
        near = others[others["mean"] + others["sd"] >= best["mean"] - best["sd"]]
        lines[table.name] = {
            "best row": best.name,
            "its score": f"{best['mean']:.3f}" + (f" ± {best['sd']:.3f}" if best["seeds"] > 1 else ""),
            "overlap with it": ", ".join(near.index) or "none" if found["seeds"].min() > 1 else "one seed",
            "lowest row": f"{found['mean'].min():.3f}",
            **{name: f"{value:.3f}" for name, value in controls.items()},
            "above both": f"{(found['mean'] > controls.max()).sum()} of {len(found)}",
        }
    return pd.DataFrame(lines).T


def lengths(tables: Iterable[StoredTable], metric: str) -> dict[str, float]:
    """How far rows lie apart, and how far luck moves a score, each in percent of the mean score.

    `sd` is a standard deviation: over seeds, or over draws of test studies (the constant report on IU X-ray,
    the shipped run on phantoms).
    """
    paper = published("emrrg_table6")[metric].sort_values()
    found = {
        "paper's Table 6: highest − lowest": np.ptp(paper) / paper.mean(),
        "paper's Table 6: neighbours": paper.diff().median() / paper.mean(),
    }
    for table in tables:
        means, sd = table.spread(metric)["mean"], table.pooled(metric)
        if sd is not None:
            found[f"our {table.name}: highest − lowest"] = np.ptp(means) / means.mean()
            found[f"our {table.name}: sd of seeds"] = sd / means.mean()
    for name, folder in (("590 IU studies", RESULTS / "iu-controls"), ("240 phantoms", TINY_DIR / "run")):
        row = read_metrics(folder)["rows"][0]
        low, high = row["ci"][metric]
        found[f"another {name}: sd"] = (high - low) / NORMAL_95 / row["metrics"][metric]
    return {name: float(value) * 100 for name, value in found.items()}


def rank_correlations(many: np.ndarray, truth: Iterable[float]) -> np.ndarray:
    """Spearman's correlation of each line of (draws, rows) with `truth` (rows,): (draws,)."""
    ranks = pd.DataFrame(many).rank(axis=1).to_numpy()
    wanted = pd.Series(list(truth)).rank().to_numpy()
    ranks, wanted = ranks - ranks.mean(axis=1, keepdims=True), wanted - wanted.mean()
    return ranks @ wanted / np.sqrt((ranks**2).sum(axis=1) * (wanted**2).sum())


def agreement(table: StoredTable, other: pd.Series, metric: str) -> dict[str, Any]:
    """The rank correlation of a table's means with the numbers of another source, row by row, and its luck.

    Args:
        other: row → number, such as the paper's score or the trained weights; rows that only one has are
            left out.

    Returns:
        `by chance`: how large it gets in 95 % of random orders. `by seeds`: its middle 95 % when every mean
        is moved by its error, sd / √seeds.
    """
    luck, other = np.random.default_rng(0), other.dropna()
    found = table.spread(metric).loc[lambda rows: rows.index.isin(other.index)]
    means, truth = found["mean"].to_numpy(), other[found.index].to_numpy()
    chance = np.percentile(abs(rank_correlations(luck.random((DRAWS, len(means))), truth)), 95)
    told = {
        "rows": len(means),
        "rank correlation": f"{rank_correlations(means[None], truth)[0]:+.2f}",
        "by chance, 95 % within": f"± {chance:.2f}",
        "by seeds": "one seed: not known",
    }
    if sd := table.pooled(metric):
        moved = luck.normal(means, sd / np.sqrt(found["seeds"]), (DRAWS, len(means)))
        low, high = np.percentile(rank_correlations(moved, truth), [2.5, 97.5])
        told["by seeds"] = f"{low:+.2f} to {high:+.2f}"
    return told


def paper_orders(tables: Iterable[StoredTable], metrics: Iterable[str]) -> pd.DataFrame:
    """The `agreement` of each table with the paper's rows, by data set and metric, of three rows or more."""
    metrics, lines = list(metrics), []
    for table in tables:
        sources = table.frame["source"][table.frame["source"].str.startswith("paper, ")]
        for dataset in sources.str[7:].unique():
            for metric in metrics:
                theirs = table.paper(dataset)[metric].dropna()
                if len(table.spread(metric).index.intersection(theirs.index)) >= 3:
                    about = {"table": table.name, "paper's data": dataset, "score": METRICS[metric].title}
                    lines.append(about | agreement(table, theirs, metric))
    return pd.DataFrame(lines).set_index(["table", "paper's data", "score"])


def lead_by_luck(rows: int, seeds: int) -> np.ndarray:
    """Highest row minus the mean of all, (2 · DRAWS,), of tables with equal rows; the sd of a seed is 1."""
    tables = np.random.default_rng(1).normal(0, seeds**-0.5, (2 * DRAWS, rows))
    return tables.max(axis=1) - tables.mean(axis=1)
