"""Comparisons of systems: exchanged reports, Holm's correction, and the forms in which they are printed."""

import io
import itertools
import json

import numpy as np
import pandas as pd
import pytest

from emrrg_lib.cli import main
from emrrg_lib.evaluation import compare, intervals
from emrrg_lib.evaluation.compare import compare_systems
from emrrg_lib.evaluation.intervals import exchange_p_values, holm, scores_of, system_statistics
from emrrg_lib.evaluation.score import CEILING
from emrrg_lib.files import latex_table, text_table

pytestmark = [pytest.mark.usefixtures("no_java"), pytest.mark.filterwarnings("ignore:METEOR is not computed")]

REFERENCES = [
    *("the heart is enlarged .", "small left effusion .", "the lungs are clear .", "possible edema ."),
    *("no acute disease .", "a nodule is seen .", "the heart is normal .", "no pneumothorax ."),
]
GOOD = [*REFERENCES[:6], "the heart is large .", "clear ."]
BAD = [*REFERENCES[1:], REFERENCES[0]]


def test_p_values_equal_all_exchanges_done_one_by_one(monkeypatch):
    """8 studies have 256 exchanges: each is scored as a set of reports of its own."""
    a, b = (system_statistics(REFERENCES, texts, meteor=False) for texts in (GOOD, BAD))
    real = {name: abs(float(v[0] - scores_of(b)[name][0])) for name, v in scores_of(a).items()}
    names = [
        "Bleu_1",
        "Bleu_4",
        "ROUGE_L",
        "CE13_micro_F1",
        "CE13_macro_F1",
        "CE13_example_F1",
        "CE14neg_weighted_P",
    ]
    extreme = dict.fromkeys(names, 0)
    for kept in itertools.product([True, False], repeat=8):
        swapped = [
            [(x, y)[k == side] for k, x, y in zip(kept, GOOD, BAD, strict=True)] for side in (False, True)
        ]
        found = [scores_of(system_statistics(REFERENCES, texts, meteor=False)) for texts in swapped]
        for name in names:
            extreme[name] += abs(found[0][name][0] - found[1][name][0]) >= real[name] - 1e-12
    p_values = exchange_p_values(a, b)
    for name in names:
        exact = extreme[name] / 256
        assert p_values[name] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 10_000) + 2e-4), (
            name
        )


def test_equal_systems_have_p_one_and_many_studies_a_small_p():
    a = system_statistics(REFERENCES * 5, GOOD * 5, meteor=False)
    b = system_statistics(REFERENCES * 5, BAD * 5, meteor=False)
    assert set(exchange_p_values(a, a).values()) == {1.0}
    found = exchange_p_values(a, b)
    assert found["Bleu_1"] == pytest.approx(1 / (intervals.EXCHANGES + 1))
    assert found == exchange_p_values(a, b)  # seeded


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and holm([]) == []


@pytest.fixture
def runs(tmp_path):
    for name, texts in (("good", GOOD), ("bad", BAD), ("again", GOOD)):
        (tmp_path / name).mkdir()
        rows = [
            {"id": f"s{i}", "reference": r, "hypothesis": h}
            for i, (r, h) in enumerate(zip(REFERENCES * 3, texts * 3, strict=True))
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "predictions.jsonl").write_text(text, "utf-8")
    return [str(tmp_path / name) for name in ("good", "bad", "again")]


def test_three_systems_in_one_table(runs):
    table = compare_systems(runs)
    pairs = dict.fromkeys((row.first, row.second) for row in table.rows)
    assert list(pairs) == [(runs[0], runs[1]), (runs[0], runs[2]), (runs[1], runs[2])]
    verdicts = {
        pair: {row.verdict for row in table.rows if (row.first, row.second) == pair} for pair in pairs
    }
    assert verdicts[runs[0], runs[2]] == {"identical"} and "identical" not in verdicts[runs[0], runs[1]]
    for row in table.rows:
        assert row.difference == pytest.approx(row.score_first - row.score_second)
        assert row.low <= row.difference <= row.high and row.p <= row.p_holm
    tested = [row for row in table.rows if row.verdict != "identical"]
    assert [row.p_holm for row in tested] == pytest.approx(holm([row.p for row in tested]))
    assert len(compare_systems(runs[:2], everything=True).rows) > 2 * len(compare_systems(runs[:2]).rows)


def test_a_table_says_where_it_is_too_long_for_any_row_to_be_real(runs, monkeypatch):
    table, said = compare_systems(runs[:2]), "The table has too many rows"
    assert said not in table.render()
    monkeypatch.setattr(compare, "EXCHANGES", 20 * len(table.rows) - 2)  # the smallest p is then over .05
    assert said in table.render() and said in table.render("latex")


def test_every_form_says_the_same(runs, capsys):
    rows = compare_systems(runs[:2]).rows
    found = {}
    for style in ("text", "json", "csv", "latex", "markdown"):
        assert main(["evaluate", "compare", *runs[:2], "--format", style]) == 0
        found[style] = capsys.readouterr().out
    assert [row["p_holm"] for row in json.loads(found["json"])["rows"]] == [row.p_holm for row in rows]
    assert pd.read_csv(io.StringIO(found["csv"]))["difference"].tolist() == pytest.approx(
        [row.difference for row in rows]
    )
    for style in ("text", "latex", "markdown"):
        assert f"{rows[0].difference:+.4f}" in found[style] and "Holm" in found[style]
        assert found[style].isascii()
    assert found["latex"].count(r"\\") == len(rows) + 1 and r"\begin{tabular}" in found["latex"]


def test_the_ceiling_is_a_system_of_every_run(runs):
    table = compare_systems([f"{runs[0]}:{CEILING}", runs[0]])
    assert {row.metric: row.score_first for row in table.rows}["Bleu_1"] == pytest.approx(1)


def test_latex_is_escaped():
    text = latex_table([["a_b", "50 %"], [r"x\y & z", "{1}"], ["BLEU\u20114", "a|b>"]], 1, "p < .05 ± #")
    assert r"a\_b & 50 \% \\" in text and r"x/y \& z & \{1\} \\" in text
    assert r"\caption{p $<$ .05 $\pm$ \#}" in text and r"{lr}" in text
    assert r"BLEU-4 & a$|$b$>$ \\" in text
    text = latex_table([["a", "b"], ["[1] x → y", "1"], ["*ours", "2"]], 1, "c")
    assert r"{[}1] x $\to$ y & 1 \\" in text and r"{*}ours & 2 \\" in text  # no option of \\
    assert text_table([["a|b", "c"], ["1", "2"]], markdown=True).startswith(r"| a\|b | c |")
    assert text_table([["<i>x</i> <.05"]], markdown=True).startswith("| &lt;i>x&lt;/i> <.05 |")
