"""The formula of `costs.py` against PyTorch's own count, and the benchmarks of training and generation."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from emrrg_lib.bench import measure, system
from emrrg_lib.cli import main
from emrrg_lib.files import InputError
from emrrg_lib.presets import preset
from emrrg_lib.run.costs import PROMPT_TOKENS, forward_flops, run_costs


@pytest.fixture(scope="module")
def model():
    return system.build(layers=2)


def counted(function):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


def test_the_formula_agrees_with_pytorchs_count(model):
    config, study = model.settings, system.batch_of(model, 1)
    wanted = forward_flops(config, model, views=2)
    sizes = config.encoder
    scan = 2 * (sizes.num_patches + 1) * sizes.depth * 4 * 9 * 2 * sizes.embed_dim * sizes.d_state
    encoder = counted(lambda: model.encoder(study["pixel_values"]))  # without the scan
    assert wanted["encoder"] - scan == pytest.approx(encoder, rel=0.1)
    report = config.data.max_length + 1
    ids = torch.ones(1, PROMPT_TOKENS + report, dtype=torch.long)
    states, mask = model.encode(study["pixel_values"], study["view_mask"])
    inputs = model.llm_inputs(ids, torch.ones_like(ids), states, mask)
    llm = counted(lambda: model.llm(**inputs, logits_to_keep=report, use_cache=False))
    assert wanted["llm"] + wanted["hybrid"] == pytest.approx(llm, rel=0.1)


def test_the_costs_of_a_paper_preset_follow_from_its_settings():
    config = preset("iu-xray")
    costs = run_costs(config)
    assert costs.total_flops == costs.train_flops * 2069 * 30 and costs.hours > costs.train_hours
    half = run_costs(replace(config, train=replace(config.train, epochs=15)))
    assert half.train_hours == pytest.approx(costs.train_hours / 2)
    assert run_costs(replace(config, encoder_tuning="full")).train_flops > costs.train_flops
    with pytest.raises(InputError, match="'tiny' is not one of them"):
        run_costs(preset("tiny"))


def test_the_command_prints_a_table(capsys):
    assert main(["ledger", "--preset", "mimic-cxr", "--costs"]) == 0
    assert "| MIMIC-CXR, 270,790 × 6 |" in capsys.readouterr().out


def test_the_loss_with_logits_everywhere_is_the_same(model):
    batch = system.batch_of(model, 2)
    with torch.no_grad():
        torch.testing.assert_close(system.loss_everywhere(model, **batch), model(**batch)["loss"])


def test_the_savings_change_no_report_and_are_undone(model):
    model.eval()
    calls = []
    batch = system.batch_of(model, 1)
    hook = model.encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))

    def write():
        return model.generate(batch["pixel_values"], batch["view_mask"], num_beams=2, max_new_tokens=3)

    whole = write()
    with system.encoding_every_beam(model, 2):
        assert write() == whole
    with system.keys_values_every_step(model):
        assert write() == whole
    hook.remove()
    assert calls == [2, 4, 2] and "encode" not in vars(model)  # images: two views of one study


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "generate"])
def test_each_saving_has_a_ratio(kind):
    figures = measure(kind, quick=True)
    assert figures["times_as shipped"]["as shipped"] == 1.0 and len(figures["seconds"]) >= 3
