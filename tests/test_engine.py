"""The training engine: schedule, weight decay split, lean checkpoints, resume."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from emrrg_lib.data.study_set import Indices
from emrrg_lib.training.engine import WEIGHTS, fit, hold_rise_fall, split_decay


class Toy(nn.Module):
    """A frozen and a trained Linear; the loss depends on the drawn noise, so that the RNG matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen, self.trained = nn.Linear(4, 4), nn.Linear(4, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        noise = torch.randn(x.shape)
        return {"loss": (self.trained(torch.tanh(self.frozen(x + 0.1 * noise))) - x.sum(1, keepdim=True))
                .square().mean()}


def collate(indices):
    x = torch.stack([torch.linspace(0, 1, 4) * (i + 1) for i in indices]) / 10
    return {"x": x + 0.01 * torch.randn(x.shape)}


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


def run(out, **kwargs):
    toy = Toy()
    fit(toy, Indices(12), collate, out, steps=9, batch_size=4, learning_rate=0.05, warmup_steps=2,
        save_steps=3, seed=3, **kwargs)
    return toy


def test_schedule_rises_holds_and_falls():
    factors = [hold_rise_fall(step, 4, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.2)
    assert factors[4:70] == [1.0] * 66
    assert all(a > b for a, b in zip(factors[70:], factors[71:], strict=False))
    assert 0 < factors[-1] < 0.05


def test_decay_falls_on_matrices_only():
    layer = nn.Linear(3, 2)
    groups = split_decay([{"params": list(layer.parameters()), "lr": 0.1}], 0.5)
    assert [(g["params"][0].dim(), g["weight_decay"]) for g in groups] == [(2, 0.5), (1, 0.0)]


def test_frozen_weights_stay_and_checkpoints_hold_only_what_trains(tmp_path):
    toy = run(tmp_path)
    assert torch.equal(toy.frozen.weight, Toy().frozen.weight)
    assert not torch.equal(toy.trained.weight, Toy().trained.weight)
    assert set(load_file(tmp_path / "checkpoint-9" / WEIGHTS)) == {"trained.weight", "trained.bias"}


def test_stopped_and_resumed_equals_undisturbed(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", callbacks=[Stop()])
    resumed = run(tmp_path / "parts", resume=True)
    assert torch.equal(whole.trained.weight, resumed.trained.weight)
    assert torch.equal(whole.trained.bias, resumed.trained.bias)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, resume=True)
    assert torch.equal(first.trained.weight, again.trained.weight)
