"""The shifted domain of notebook 03 and the gates of notebook 04: what trains, what stays, what is told."""

import numpy as np
import pytest
import torch

from emrrg_lib.language.hybrid_decoder import hybrid_modules
from emrrg_lib.training import gates, shift


@pytest.fixture(scope="module")
def few():
    return shift.draw(range(2))


def test_inverted_studies_are_the_same_but_for_the_contrast(few):
    upright = shift.draw(range(2), inverted=False)
    for one, other in zip(few, upright, strict=True):
        assert one.report == other.report
        assert np.array_equal(one.images.astype(int) + other.images, np.full(one.images.shape, 255))


@pytest.mark.parametrize("target", shift.RANKS)
def test_the_targets_cost_nearly_the_same(target):
    model = shift.model_for([target], shift.RANKS[target])
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert sum(trained.values()) == (8704 if target == "dt" else 9216)


def test_only_the_pairs_move_and_switched_off_the_model_is_the_old_one(few):
    model = shift.model_for(["X"], 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = shift.study_losses(model, few)
    losses = shift.tune(model, few, 3, 1e-2, size=2)
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert moved and all("lora_X" in name for name in moved)
    assert losses[-1] < losses[0] and shift.study_losses(model, few).mean() < fresh.mean()
    with model.encoder.disable_adapter():
        assert np.array_equal(shift.study_losses(model, few), fresh)


def test_ranks_are_compared_on_the_same_studies(tmp_path, monkeypatch):
    monkeypatch.setattr(shift, "TRAIN", range(2))
    monkeypatch.setattr(shift, "TEST", range(2, 5))
    monkeypatch.setattr(shift.tune, "__defaults__", (0, 2))
    path = shift.compare_ranks(tmp_path / "ranks.json", [("scrambled", "X", 1, (1, 16))])
    (row,) = shift.rank_summary(path)
    assert row["worse"] == pytest.approx(row["rank 1"] - row["rank 16"])
    assert row["low"] <= row["worse"] <= row["high"]
    assert row["untuned"] not in (row["rank 1"], row["rank 16"])


def test_a_comparison_is_summed_up_with_intervals(tmp_path, monkeypatch):
    monkeypatch.setattr(shift, "TRAIN", range(2))
    monkeypatch.setattr(shift, "TEST", range(2, 5))
    monkeypatch.setattr(shift, "RANKS", {"X": 1, "dt": 1})
    monkeypatch.setattr(shift.tune, "__defaults__", (0, 2))  # seed, studies of a batch
    path = shift.compare(tmp_path / "losses.json", steps=1, rates=(1e-3, 1e-2), seeds=(0,))
    X, dt = shift.summary(path)
    assert X["worse"] == X["low"] == X["high"] == 0 and X["target"] == "X"
    assert dt["low"] <= dt["worse"] <= dt["high"] and len(dt["curve"]) == 1
    assert dt["test"] - X["test"] == pytest.approx(dt["worse"])
    assert shift.levels(path)["untuned"] > 0


def test_the_stored_comparison_is_whole():
    rows = shift.summary()
    assert [row["target"] for row in rows] == list(shift.RANKS)
    assert {row["parameters"] for row in rows} == {9216, 8704}
    levels = shift.levels()
    assert all(levels["as_trained"] < row["test"] < levels["untuned"] for row in rows)


def test_gates_open_from_zero_and_nothing_else_trains(monkeypatch):
    monkeypatch.setattr(gates, "TRAIN", range(8))
    monkeypatch.setattr(gates, "TEST", range(8, 10))
    models = []
    monkeypatch.setattr(gates, "hybrid_modules", lambda llm: models.append(llm) or hybrid_modules(llm))
    first, last = gates.open_gates(steps=2, every=2)
    assert (first["step"], last["step"]) == (0, 2)
    assert not any(first["α"]) and all(last["α"]) and first["mean |gate|"] == 0 < last["mean |gate|"]
    assert first["own image"] == pytest.approx(first["other image"], abs=1e-5)
    trained = {
        name.split("cross_attention.")[1] for name, p in models[0].named_parameters() if p.requires_grad
    }
    assert trained == {"gate_proj.weight", "gate_proj.bias", "warm_up"}


def test_a_price_closes_gates(monkeypatch):
    monkeypatch.setattr(gates, "TRAIN", range(8))
    monkeypatch.setattr(gates, "TEST", range(8, 10))
    free, dear = (gates.open_gates(closed=False, price=price, steps=2, every=2)[-1] for price in (0, 10))
    assert dear["mean |gate|"] < free["mean |gate|"]


def test_rank_16_is_ahead_once_and_behind_once_in_the_stored_runs():
    """What notebook 03 and data/results/README.md say."""
    rows = shift.rank_summary()
    assert [(row["shift"], row["target"], row["steps"]) for row in rows] == [
        (name, target, steps) for name, target, steps, _ in shift.RANK_RUNS
    ]
    ahead, equal, behind = rows
    assert 0 < ahead["low"] and equal["low"] < 0 < equal["high"] and behind["high"] < 0
    assert 1 / 9 < ahead["worse"] / (ahead["untuned"] - ahead["rank 16"]) < 1 / 7  # "an eighth of the gain"
