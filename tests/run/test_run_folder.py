"""The run folder's files: written files are read back, and damaged ones are named."""

import os
import re

import pytest
import torch
from safetensors.torch import load_file

from emrrg_lib.files import InputError
from emrrg_lib.presets import preset
from emrrg_lib.run_folder import (
    read_config,
    read_json,
    read_predictions,
    write_config,
    write_predictions,
    write_trained,
)


def row(name, **more):
    return {"id": name, "reference": "no effusion .", "hypothesis": "effusion .", **more}


def test_the_config_is_read_back(tmp_path, small_config):
    for config in (preset("tiny"), small_config):
        write_config(tmp_path / "run", config)
        assert read_config(tmp_path / "run") == config
        assert read_config(str(tmp_path / "run")) == config


def test_a_run_that_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no config.json in .*: give the folder of a finished run"):
        read_config(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{half")
    with pytest.raises(InputError, match="config.json is not readable JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="config.json is not readable JSON"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"depth": 3}')
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'config.json'} has no setting 'depth'")):
        read_config(tmp_path)


def test_only_what_trains_is_written(tmp_path, make_model):
    model = make_model()
    path = write_trained(tmp_path / "run", model)
    tensors, state = load_file(path), model.state_dict()
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(tensors) == trains and 0 < len(trains) < len(state)
    assert all(torch.equal(tensors[name], state[name]) for name in tensors)
    assert os.listdir(path.parent) == ["trained.safetensors"]


def test_predictions_are_read_back(tmp_path):
    rows = [row("a", scores={"Bleu_4": 0.25, "METEOR": None}), row("b", labels={"Edema": -1})]
    path = write_predictions(tmp_path / "run", rows)
    assert read_predictions(path.parent) == rows
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b", "a\x1cb", "two\nlines", 'tab\t"quote" \\', "", "α"])
def test_predictions_hold_any_text(tmp_path, text):
    rows = [row("a") | {"hypothesis": text}, row(text or "b")]
    write_predictions(tmp_path, rows)
    assert read_predictions(tmp_path) == rows


def test_a_number_that_json_does_not_know_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError):
        write_predictions(tmp_path, [row("a", scores={"x": float("nan")})])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "lines, said",
    [
        (['{"id": "a"'], "line 1: expected an object with id, reference and hypothesis"),
        (['{"id": "a", "reference": "x", "hypothesis": "y"}', "[1]"], "line 2: expected an object"),
        (["null"], "line 1: expected"),
        (['"text"'], "line 1: expected"),
        (["3"], "line 1: expected"),
        (['{"id": "a", "reference": "x"}'], "line 1: expected"),
        (['{"id": 1, "reference": "x", "hypothesis": "y"}'], "line 1: expected"),
        (['{"id": "a", "reference": "x", "hypothesis": "y"}', ""], "line 2: expected"),
        (['{"id": "a", "reference": "x", "hypothesis": "y"}'] * 2, "line 2: the id 'a' occurs a second time"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, lines, said):
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=re.escape(said)):
        read_predictions(tmp_path)


def test_missing_empty_and_unreadable_predictions(tmp_path):
    with pytest.raises(InputError, match="no predictions.jsonl in .*run `emrrg train`"):
        read_predictions(tmp_path)
    write_predictions(tmp_path, [])
    with pytest.raises(InputError, match="predictions.jsonl is empty"):
        read_predictions(tmp_path)
    (tmp_path / "predictions.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="predictions.jsonl is damaged"):
        read_predictions(tmp_path)
