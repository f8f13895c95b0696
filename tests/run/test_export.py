"""`emrrg export`: the merged encoder is a plain file and computes what the run's encoder does."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import on_disk

from emrrg_lib import cli
from emrrg_lib.files import InputError
from emrrg_lib.model import EMRRG
from emrrg_lib.run.inference import export_encoder
from emrrg_lib.run_folder import write_config, write_trained
from emrrg_lib.tuning.partial_lora import TARGETS
from emrrg_lib.vision.weights import load_vision_encoder


@pytest.fixture
def make_run(tmp_path, small_config, make_encoder, make_llm, tokenizer):
    """`make_run(**changes)` → (run folder with moved weights, its model), base weights on disk."""
    base = on_disk(tmp_path, small_config, make_encoder(), make_llm(), tokenizer)

    def make(**changes):
        config = dataclasses.replace(base, **changes)
        model, run = EMRRG.from_preset(config).eval(), tmp_path / "run"
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn(parameter.shape)
        write_config(run, config)
        write_trained(run, model)
        return run, model

    return make


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("targets", [("X", "in_proj"), tuple(TARGETS)], ids=["default", "all targets"])
def test_the_file_computes_what_the_run_does(tmp_path, make_run, small_config, images, suffix, targets):
    lora = dataclasses.replace(small_config.partial_lora, targets=targets, scale=0.7)
    run, model = make_run(partial_lora=lora)
    untouched = load_vision_encoder(tmp_path / "encoder.safetensors")
    exported = load_vision_encoder(export_encoder(run, tmp_path / f"out{suffix}"), image_size=16).eval()
    assert exported.state_dict().keys() == untouched.state_dict().keys()
    pixels = images(2)[:, 0]
    with torch.no_grad():
        found, wanted, before = exported(pixels), model.encoder(pixels), untouched.eval()(pixels)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (found - before).abs().max() > 1e-2


@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_an_encoder_without_lora_is_written_as_it_is(tmp_path, make_run, tuning):
    run, model = make_run(encoder_tuning=tuning)
    exported = load_file(export_encoder(run, tmp_path / "out.safetensors"))
    assert exported.keys() == model.encoder.state_dict().keys()
    assert all(torch.equal(exported[k], v) for k, v in model.encoder.state_dict().items())


def test_the_command_needs_neither_llm_nor_data(tmp_path, make_run, capsys):
    run, _ = make_run()
    (tmp_path / "llm").rename(tmp_path / "gone")
    assert cli.main(["export", "--run", str(run), "--out", str(tmp_path / "out.safetensors")]) == 0
    assert "Wrote" in capsys.readouterr().out and load_vision_encoder(tmp_path / "out.safetensors")


def test_what_cannot_be_exported_is_said(tmp_path, make_run, small_config):
    run, _ = make_run()
    with pytest.raises(InputError, match="name a .safetensors or a .pth"):
        export_encoder(run, tmp_path / "out.bin")
    tensors = load_file(run / "trained.safetensors")
    save_file(tensors | {"encoder.other": torch.zeros(1)}, run / "trained.safetensors")
    with pytest.raises(InputError, match="1 tensors differ, first 'encoder.other'"):
        export_encoder(run, tmp_path / "out.pth")
    (run / "trained.safetensors").unlink()
    with pytest.raises(InputError, match="finish the run"):
        export_encoder(run, tmp_path / "out.pth")
    write_config(
        run,
        dataclasses.replace(
            small_config, encoder=dataclasses.replace(small_config.encoder, kind="hf"), encoder_tuning="full"
        ),
    )
    with pytest.raises(InputError, match="only a VisionMamba"):
        export_encoder(run, tmp_path / "out.pth")
