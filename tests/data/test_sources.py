"""The table of data sets: a row is all that a new reader needs."""

import json
import re

import pytest

from emrrg_lib.cli import main
from emrrg_lib.data.cleaning import RULES
from emrrg_lib.data.sources import SOURCES, Layout, Source, read_dataset, source_named, source_of_preset
from emrrg_lib.data.study import Study
from emrrg_lib.evaluation.published import FOLDER, published, score_table
from emrrg_lib.files import InputError
from emrrg_lib.presets import PRESETS, preset
from emrrg_lib.run.costs import run_costs


def read_toy(file, problems):
    """A toy reader: one line a study, with its split and its report."""
    lines = [line.split(" ", 1) for line in file.read_text().splitlines()]
    return [
        Study(f"toy{i}", (file.parent / f"toy{i}.png",), text, split) for i, (split, text) in enumerate(lines)
    ]


TOY = Source(
    name="Toy",
    printed="TOY",
    mentions=r"\btoy\b",
    command="toy-set",
    presets=("toy",),
    split_by="Somebody",
    counts=(2, 1, 1),
    image_paths=r"toy\d+\.png",
    cleaning="none",
    views=1,
    layouts=(Layout(("toy.txt",), read_toy, "toy.txt with pictures (Toy)"),),
    access="the toy is given to children only: ask at the shop",
)


@pytest.fixture
def toy(tmp_path):
    """A folder of toy data, while the table has the toy's row."""
    (tmp_path / "toy.txt").write_text("train Clear.\ntrain Enlarged heart.\nval Clear.\ntest Clear.\n")
    SOURCES.append(TOY)
    yield tmp_path
    SOURCES.remove(TOY)


def test_a_row_is_enough_to_read(toy):
    dataset = read_dataset(toy)
    assert dataset.name == "Toy" and dataset.published_split
    assert dataset.caption == "Toy, Somebody split 2/1/1"
    assert [study.report for study in dataset.split("train")] == ["Clear.", "Enlarged heart."]


def test_the_message_that_lists_the_layouts_has_the_new_one(toy):
    (toy / "toy.txt").unlink()
    with pytest.raises(InputError, match=re.escape("or toy.txt with pictures (Toy)")):
        read_dataset(toy)


def test_the_commands_know_the_new_data_set(toy, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["data", "fetch", "--help"])
    assert "toy-set" in capsys.readouterr().out
    assert main(["data", "fetch", "toy-set", "--to", str(tmp_path / "x")]) == 2
    assert "ask at the shop" in capsys.readouterr().err
    main(["data", "check", str(toy), "--list", str(tmp_path / "found.csv")])
    assert "published 2 / 1 / 1 (Somebody): the same" in capsys.readouterr().out
    assert main(["evaluate", "controls", "--data", str(toy), "--out", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["dataset"].startswith("Toy, Somebody split 2/1/1")
    with pytest.raises(InputError, match="has no row of TOY"):
        score_table(tmp_path / "run", ["emrrg_table1"])


def test_without_the_row_nothing_knows_it(tmp_path, capsys):
    (tmp_path / "toy.txt").write_text("train Clear.\n")
    with pytest.raises(InputError, match="no layout this kit reads: it needs annotation.json"):
        read_dataset(tmp_path)
    with pytest.raises(SystemExit):
        main(["data", "fetch", "toy-set"])
    assert "choose from" in capsys.readouterr().err and source_named("Toy") is None


def test_the_rows_agree_with_presets_rules_and_printed_tables():
    printed = {name for file in FOLDER.glob("*.csv") for name in published(file.stem)["dataset"]}
    for source in SOURCES:
        assert source.cleaning in RULES and source.printed in printed
        assert set(source.presets) <= set(PRESETS)
        for name in source.presets:
            assert preset(name).data.cleaning == source.cleaning and source_of_preset(name) is source
            assert re.search(source.mentions, f"{source.name}, {source.split_by} split", re.I)
    assert {source.name: source.counts for source in SOURCES} == {
        "IU X-ray": (2069, 296, 590),
        "MIMIC-CXR": (270_790, 2130, 3858),
        "CheXpert Plus": (40_463, 5780, 11_562),
    }


def test_costs_take_views_and_studies_from_the_table():
    assert run_costs(preset("iu-xray")).data == "IU X-ray, 2,069 × 30"
    with pytest.raises(InputError, match="'tiny' is not one of them"):
        run_costs(preset("tiny"))
