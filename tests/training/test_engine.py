"""The training engine: schedule, weight decay split, lean checkpoints, resume."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from emrrg_lib.data.study_set import Indices
from emrrg_lib.training import engine, watch
from emrrg_lib.training.checkpoints import WEIGHTS
from emrrg_lib.training.engine import fit, loss_history
from emrrg_lib.training.schedules import cosine, cosine_by_epoch, hold_rise_fall, split_decay


class Toy(nn.Module):
    """A frozen and a trained Linear; the loss depends on the drawn noise, so that the RNG matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen, self.trained = nn.Linear(4, 4), nn.Linear(4, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        noise = torch.randn(x.shape)
        return {
            "loss": (self.trained(torch.tanh(self.frozen(x + 0.1 * noise))) - x.sum(1, keepdim=True))
            .square()
            .mean()
        }


def collate(indices):
    x = torch.stack([torch.linspace(0, 1, 4) * (i + 1) for i in indices]) / 10
    return {"x": x + 0.01 * torch.randn(x.shape)}


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


def run(out, **kwargs):
    return run_with_trainer(out, **kwargs)[0]


def run_with_trainer(out, **kwargs):
    toy = Toy()
    settings = {"steps": 9, "batch_size": 4, "learning_rate": 0.05, "warmup_steps": 2, "save_steps": 3}
    return toy, fit(toy, Indices(12), collate, out, seed=3, **settings | kwargs)


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


def test_resume_in_mid_epoch_between_two_logged_losses(tmp_path):
    """Checkpoints at 7 and 14 of 6 steps an epoch, losses logged every second step."""
    settings = {"steps": 40, "batch_size": 2, "save_steps": 7, "accumulation": 1}
    whole, first = run_with_trainer(tmp_path / "whole", **settings)
    for stop_at in (9, 15, 29):

        class StopThere(TrainerCallback):
            def on_step_end(self, args, state, control, stop_at=stop_at, **kwargs):
                if state.global_step == stop_at:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", resume=True, callbacks=[StopThere()], **settings)
    resumed, second = run_with_trainer(tmp_path / "parts", resume=True, **settings)
    assert torch.equal(whole.trained.weight, resumed.trained.weight)
    assert loss_history(first) == loss_history(second) and len(loss_history(first)) == 20
    assert (tmp_path / "whole" / "loss.csv").read_text() == (tmp_path / "parts" / "loss.csv").read_text()


class Mean(nn.Module):
    """A loss that is a mean over the labels of a step, as EMRRG's."""

    accepts_loss_kwargs = True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(1, 1)

    def forward(self, x, labels, num_items_in_batch=None):
        error = (self.line(x)[:, 0] - labels).square()
        return {"loss": error[labels != -100].sum() / num_items_in_batch}


def counted(numbers):
    """Study n with label n; every third one counts for nothing."""
    labels = torch.tensor([n if n % 3 else -100 for n in numbers])
    return {"x": torch.tensor(numbers, dtype=torch.float32)[:, None], "labels": labels}


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_is_the_same_training(tmp_path, parts):
    weights = []
    for accumulation in (1, parts):
        model = Mean()
        fit(
            model,
            Indices(14),
            counted,
            tmp_path / str(accumulation),
            steps=8,
            seed=1,
            clip=0.0,
            batch_size=4 // accumulation,
            accumulation=accumulation,
            learning_rate=0.1,
            warmup_steps=1,
        )
        weights.append(model.line.weight.detach())
    torch.testing.assert_close(*weights, atol=1e-6, rtol=0)


@pytest.mark.parametrize("before, after", [(True, None), (None, True)])
def test_a_checkpoint_of_a_fused_adamw_goes_on_without_it_and_the_other_way(
    tmp_path, before, after, monkeypatch
):
    plain = run(tmp_path / "plain").trained.weight
    own = torch.optim.AdamW

    def fused(value):
        monkeypatch.setattr("torch.optim.AdamW", lambda groups, **how: own(groups, **how | {"fused": value}))

    fused(before)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", callbacks=[Stop()])
    fused(after)
    resumed = run(tmp_path / "parts", resume=True).trained.weight
    torch.testing.assert_close(resumed, plain, atol=1e-6, rtol=0)


def test_clip_0_is_off_and_the_norm_is_logged_all_the_same(tmp_path):
    norms = {}
    for clip in (0.0, 1e-3):
        _, trainer = run_with_trainer(tmp_path / str(clip), clip=clip)
        norms[clip] = [row["grad_norm"] for row in watch.curve(trainer.state.log_history)]
    assert norms[0.0][0] == norms[1e-3][0] > 1e-3 and norms[0.0] != norms[1e-3]


def test_bf16_rounds_the_forward_pass_and_leaves_the_weights_float32(tmp_path):
    plain, half = (run(tmp_path / str(bf16), bf16=bf16).trained.weight for bf16 in (False, True))
    assert half.dtype == torch.float32 and not torch.equal(plain, half)
    torch.testing.assert_close(plain, half, atol=0.02, rtol=0)


def test_cosine_rises_and_falls_to_zero():
    factors = [cosine(step, 5, 105) for step in range(106)]
    assert factors[:5] == pytest.approx([(step + 1) / 6 for step in range(5)])
    assert (factors[5], factors[55], factors[105]) == pytest.approx((1.0, 0.5, 0.0))


@pytest.mark.parametrize("epochs, epoch", [(5, 7), (31, 3), (1, 10)])
def test_cosine_by_epoch_is_torchs_own_with_the_release_settings(epochs, epoch):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs, eta_min=1e-6)
    for step in range(epochs * epoch):
        rate = 1e-4 * cosine_by_epoch(step, 0, epochs * epoch, epoch)
        assert rate == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        if (step + 1) % epoch == 0:
            optimizer.step()
            theirs.step()


def test_the_curve_is_saved_and_redrawn_in_a_notebook(tmp_path, monkeypatch):
    drawn = []

    class Handle:
        def update(self, figure):
            drawn.append(figure.alt)

    def display(figure, display_id):
        drawn.append(figure.alt)
        return Handle()

    for module in (watch, engine):
        monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    _, trainer = run_with_trainer(tmp_path)
    rows = [line.split(",") for line in (tmp_path / "loss.csv").read_text().splitlines()]
    assert rows[0] == watch.COLUMNS
    assert [int(row[0]) for row in rows[1:]] == [entry["step"] for entry in loss_history(trainer)]
    assert len(drawn) == len(rows) - 1 and "Training loss" in drawn[-1]
    names = {type(callback).__name__ for callback in trainer.callback_handler.callbacks}
    assert "LossCurve" in names and not [name for name in names if "Progress" in name or "Printer" in name]


def test_this_is_no_notebook():
    assert not watch.in_notebook()


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, resume=True)
    assert torch.equal(first.trained.weight, again.trained.weight)
