"""Batches that threads make ahead are those of one thread, also after a kill; errors keep their sentence."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.data.study_set import Indices, StudySet
from emrrg_lib.files import InputError
from emrrg_lib.training import shares
from emrrg_lib.training.engine import fit, loss_history
from emrrg_lib.training.finetune import StudyCollator, TokenCollator
from emrrg_lib.training.shares import Batches, ShareCollator, random_streams


@pytest.fixture
def with_threads(monkeypatch):
    """Sets how many threads make batches, as on a GPU."""
    monkeypatch.setattr("torch.Tensor.pin_memory", lambda tensor: tensor)
    return lambda count: monkeypatch.setattr(shares, "threads", lambda *args: count)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)

    def forward(self, x):
        return {"loss": self.line(x).square().mean() + self.line(x).mean()}


def noisy(numbers):
    rows = [rng.normal(n, size=3) for n, rng in zip(numbers, random_streams(5, numbers), strict=True)]
    return {"x": torch.tensor(np.array(rows), dtype=torch.float32)}


class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise KeyboardInterrupt


def train(out, collate=noisy, **kwargs):
    budget = dict(steps=11, batch_size=2, accumulation=2, learning_rate=0.1, save_steps=2, seed=1)
    model = Line()
    trainer = fit(model, Indices(11), collate, out, **budget | kwargs)  # 3 steps an epoch
    return model.line.weight.detach(), loss_history(trainer)


@pytest.mark.parametrize("before, after", [(2, 2), (2, 0), (0, 3)])
def test_a_training_has_the_same_batches_for_any_number_of_threads(tmp_path, with_threads, before, after):
    weight, history = train(tmp_path / "none")
    with_threads(before)
    found, its_history = train(tmp_path / "whole")
    assert torch.equal(found, weight) and its_history == history
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", callbacks=[Kill()])
    with_threads(after)
    resumed, its_history = train(tmp_path / "killed", resume=True)
    assert torch.equal(resumed, weight) and its_history == history


@pytest.mark.parametrize("augment", [True, False])
def test_studies_come_out_alike_and_torchs_stream_moves_alike(
    make_model, small_config, phantom_dir, with_threads, augment
):
    config = replace(small_config, data=replace(small_config.data, augment=augment))
    studies, model = StudySet(load_annotation(phantom_dir, "train"), config), make_model(config)
    found = []
    for count in (0, 2):
        with_threads(count)
        share = ShareCollator(StudyCollator(studies, model, 0), 0, 1)
        torch.manual_seed(3)
        batches, states = [], []
        for batch in share.in_order(map(share, Batches(8, 3, seed=1))):
            batches.append(batch)
            states.append(torch.get_rng_state())
        share.close()
        found.append((batches, states))
    for one, two in zip(*(batches for batches, _ in found), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(two[k])) for k in one)
    assert all(torch.equal(*pair) for pair in zip(found[0][1], found[1][1], strict=True))
    assert torch.equal(found[0][1][0], found[0][1][-1]) is not augment


def test_an_error_in_a_thread_keeps_its_sentence_and_no_thread_stays(tmp_path, with_threads):
    def broken(numbers):
        raise InputError("an image is missing")

    with_threads(2)
    before = threading.active_count()
    with pytest.raises(InputError, match="^an image is missing$"):
        train(tmp_path, broken)
    assert threading.active_count() == before


def test_only_a_gpu_and_collators_that_may_have_threads(monkeypatch):
    assert shares.threads(StudyCollator, 1) == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for cores, processes, count in ((16, 1, 8), (16, 4, 4), (2, 4, 1), (None, 1, 1)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert shares.threads(StudyCollator, processes) == count
        assert shares.threads(TokenCollator, processes) == shares.threads(noisy, processes) == 0
