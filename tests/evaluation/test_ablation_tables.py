"""Ablation tables read again: spread, verdicts and luck against sums by hand and closed forms."""

import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest

from emrrg_lib.evaluation.ablation_tables import (
    StoredTable,
    agreement,
    lead_by_luck,
    lengths,
    overview,
    paper_orders,
    rank_correlations,
    read_tables,
    verdicts,
)
from emrrg_lib.evaluation.published import published
from emrrg_lib.files import InputError

SCORES = {"a": (0.50, 0.54), "b": (0.53, 0.55), "c": (0.20, 0.24)}
METRIC = "Bleu_4"
PAPER = pd.Series({"a": 3.0, "b": 2.0, "c": 1.0, "d": 9.0})


@pytest.fixture
def table():
    mine = [
        {"source": "this run", "row": row, "seed": seed, "minutes": 1.0, "trained": 10, METRIC: score}
        for row, scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]
    twin = {**mine[0], "row": "twin of a", "note": "same settings as a", METRIC: 0.99}
    controls = [{"source": "control", "row": "constant report", METRIC: 0.3}]
    controls += [{"source": "control", "row": "shuffled images", METRIC: 0.1}]
    left_out = {"source": "left out", "row": "e", "note": "no weights"}
    paper = [{"source": "paper, IU X-Ray", "row": row, METRIC: value} for row, value in PAPER.items()]
    record = {"values": ["train.warm_steps=8", "train.steps=2"]}
    return StoredTable("made", pd.DataFrame([*mine, twin, left_out, *controls, *paper]), record)


def test_mean_and_deviation_are_those_of_the_seeds_and_a_shared_training_counts_once(table):
    found = table.spread(METRIC)
    assert list(found.index) == list(SCORES)
    for row, scores in SCORES.items():
        assert found["mean"][row] == pytest.approx(statistics.mean(scores))
        assert found["sd"][row] == pytest.approx(statistics.stdev(scores))
    variances = [statistics.variance(scores) for scores in SCORES.values()]
    assert table.pooled(METRIC) == pytest.approx(math.sqrt(statistics.mean(variances)))


def test_rows_of_one_seed_are_compared_by_their_differences(table):
    gaps = [[x - y for x, y in zip(SCORES[p], SCORES[q], strict=True)] for p, q in ("ab", "ac", "bc")]
    expected = math.sqrt(statistics.mean(statistics.variance(gap) for gap in gaps))
    assert table.paired(METRIC) == pytest.approx(expected)


def test_a_table_of_single_seeds_has_no_deviation(table):
    single = StoredTable("single", table.frame[table.frame["seed"] != 1], table.record)
    assert single.pooled(METRIC) is None
    assert verdicts([single], METRIC).loc["single", "overlap with it"] == "one seed"


def test_what_overlaps_with_the_best_row_and_what_beats_the_controls(table):
    told = verdicts([table], METRIC).loc["made"]
    assert told["best row"] == "b" and told["its score"] == "0.540 ± 0.014"
    assert told["overlap with it"] == "a" and told["above both"] == "2 of 3"
    shown = overview([table]).loc["made"]
    assert shown["rows"] == 3 and shown["seeds"] == "2" and shown["left out"] == "e"
    assert shown["warm + joint steps"] == "8 + 2" and shown["minutes"] == 6


def test_rank_correlation_is_the_formula_of_the_squared_differences():
    draw = np.random.default_rng(3)
    many, truth = draw.random((5, 7)), draw.random(7)
    ranks, wanted = many.argsort(axis=1).argsort(axis=1), truth.argsort().argsort()
    by_hand = 1 - 6 * ((ranks - wanted) ** 2).sum(axis=1) / (7 * (7**2 - 1))
    assert np.allclose(rank_correlations(many, truth), by_hand)


def test_a_table_agrees_with_itself_and_with_the_paper_as_far_as_its_rows_are_there(table):
    means = table.spread(METRIC)["mean"]
    assert agreement(table, means, METRIC)["rank correlation"] == "+1.00"
    assert agreement(table, -means, METRIC)["rank correlation"] == "-1.00"
    found = paper_orders([table], [METRIC]).loc[("made", "IU X-Ray", "BLEU-4")]
    assert found["rows"] == 3 and found["rank correlation"] == "+0.50"  # b, a, c against a, b, c


def test_luck_of_two_rows_is_its_closed_form():
    for seeds in (1, 3):  # half of |a − b|, of sd √2 · sd / √seeds
        assert lead_by_luck(2, seeds).mean() == pytest.approx(1 / math.sqrt(math.pi * seeds), rel=0.04)


def test_lengths_are_in_percent_of_the_mean(table):
    found, paper = lengths([table], METRIC), published("emrrg_table6")[METRIC]
    wide = (paper.max() - paper.min()) / paper.mean() * 100
    assert found["paper's Table 6: highest − lowest"] == pytest.approx(wide)
    mean = statistics.mean(statistics.mean(scores) for scores in SCORES.values())
    assert found["our made: sd of seeds"] == pytest.approx(table.pooled(METRIC) / mean * 100)
    assert found["another 590 IU studies: sd"] > 0 and found["another 240 phantoms: sd"] > 0


def test_tables_are_read_from_their_folders(tmp_path, table):
    with pytest.raises(InputError, match="holds no results.csv"):
        read_tables(tmp_path)
    (tmp_path / "made").mkdir()
    table.frame.to_csv(tmp_path / "made" / "results.csv", index=False)
    (tmp_path / "made" / "run.json").write_text(json.dumps(table.record))
    assert list(read_tables(tmp_path)) == ["made"]
    assert read_tables(tmp_path)["made"].pooled(METRIC) == pytest.approx(table.pooled(METRIC))
    assert {"table5", "table6"} <= set(read_tables())
