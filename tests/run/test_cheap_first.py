"""What costs a moment is checked before images are decoded, phantoms drawn or language models loaded."""

import dataclasses
import shutil
import time

import pytest
from small_runs import on_disk

from emrrg_lib import cli
from emrrg_lib.config import TrainConfig
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.files import InputError
from emrrg_lib.model import EMRRG, require_weights
from emrrg_lib.run.demo import score_run
from emrrg_lib.run.inference import generate_for_files, generate_split
from emrrg_lib.run_folder import write_config, write_json, write_trained
from emrrg_lib.run_record import run_record
from emrrg_lib.training.ablation import run_ablation
from emrrg_lib.training.finetune import run_finetune
from emrrg_lib.vision.weights import ENCODER_FILES


@pytest.fixture
def config(tmp_path, small_config, make_encoder, make_llm, tokenizer):
    base = on_disk(tmp_path, small_config, make_encoder(), make_llm(), tokenizer)
    return dataclasses.replace(base, train=TrainConfig(warm_steps=1, steps=1, batch_size=2, validations=1))


@pytest.fixture
def data(tmp_path, phantom_dir):
    return shutil.copytree(phantom_dir, tmp_path / "data")


@pytest.fixture
def run(tmp_path, config, data):
    folder = tmp_path / "run"
    write_config(folder, config)
    write_trained(folder, EMRRG.from_preset(config))
    record = run_record("stage 3", time.time(), data=str(data), seed=0)
    write_json(folder / "run.json", record)
    return folder


@pytest.fixture
def costly(monkeypatch):
    """The list of the costly steps that were taken; each of them stops the command."""
    taken = []

    def step(name):
        def refuse(*arguments, **keywords):
            taken.append(name)
            raise AssertionError(name)

        return refuse

    for place, name in {
        "PIL.Image.open": "decode",
        "emrrg_lib.language.llm.AutoModelForCausalLM.from_pretrained": "load",
        "emrrg_lib.vision.weights.read_tensors": "load",
        "emrrg_lib.phantom.write_phantom": "draw",
        "emrrg_lib.run.demo.write_phantom": "draw",
    }.items():
        monkeypatch.setattr(place, step(name))
    return taken


def without_encoder(config):
    return dataclasses.replace(config, encoder_weights="none.safetensors")


def without_llm(config):
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, name="nosuch/model"))


def without_vision_model(config):
    encoder = dataclasses.replace(config.encoder, kind="hf")
    return dataclasses.replace(config, encoder=encoder, encoder_weights="nosuch/vit", encoder_tuning="frozen")


LACKS = {
    without_encoder: "no checkpoint at none.safetensors",
    without_llm: "cannot load the language model 'nosuch/model'",
    without_vision_model: "cannot load the vision model 'nosuch/vit'",
}


@pytest.mark.parametrize("lack", LACKS)
def test_train_looks_for_weights_first(config, data, costly, tmp_path, lack):
    with pytest.raises(InputError, match=LACKS[lack]):
        require_weights(lack(config))
    with pytest.raises(InputError, match=LACKS[lack]):
        run_finetune(lack(config), data, tmp_path / "out")
    assert not costly and not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_train_looks_for_images_before_the_first_is_decoded(config, data, costly, tmp_path, split):
    image = read_dataset(data).split(split)[-1].images[-1]
    image.unlink()
    with pytest.raises(InputError, match=f"no image file at .*{image.name}"):
        run_finetune(config, data, tmp_path / "out")
    assert not costly and not (tmp_path / "out").exists()


def test_an_ablation_looks_for_images_first(config, data, costly, tmp_path):
    read_dataset(data).split("test")[0].images[0].unlink()
    with pytest.raises(InputError, match="no image file"):
        run_ablation("gate", config, data, tmp_path / "out", 1)
    assert not costly


def test_generate_looks_for_images_before_a_model_is_loaded(run, data, costly, tmp_path):
    with pytest.raises(InputError, match=r"no image file at none\.png"):
        generate_for_files(run, ["none.png"])
    read_dataset(data).split("test")[-1].images[0].unlink()
    with pytest.raises(InputError, match="no image file"):
        generate_split(run, data, "test", tmp_path / "out")
    with pytest.raises(InputError, match="no image file"):
        score_run(run)
    shutil.rmtree(data)
    for command in (lambda: score_run(run), lambda: generate_split(run, data, "test", tmp_path / "out")):
        with pytest.raises(InputError, match="data"):
            command()
    assert not costly


def test_a_run_without_trained_weights_loads_no_model(run, data, costly):
    (run / "trained.safetensors").unlink()
    for command in (lambda: EMRRG.from_run(run), lambda: generate_split(run, data, "test", run / "out")):
        with pytest.raises(InputError, match="no trained weights at .*; finish the run"):
            command()
    assert not costly


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --data DATA --out OUT --llm nosuch/model", "nosuch/model"),
        ("train --data DATA --out OUT --encoder-weights none.pth", "none.pth"),
        ("train --preset iu-xray --data DATA --out OUT", "mambaxray-vl-base"),
        ("train --preset r2gengpt --data DATA --out OUT", "swin-base"),
        ("train --data DATA/none --out OUT", "none"),
        ("ablate gate --out OUT --set llm.name=nosuch/model", "nosuch/model"),
        ("ablate gate --out OUT --set encoder_weights=none.pth", "none.pth"),
        ("pretrain stage1 --data DATA --weights none.pth --out OUT", "none.pth"),
        ("pretrain stage2 --data DATA --weights none.pth --out OUT", "none.pth"),
        ("pretrain stage2 --data DATA --text-encoder nosuch/bert --out OUT", "nosuch/bert"),
        ("generate --run OUT --images none.png", "no run folder"),
    ],
)
def test_commands_leave_nothing_behind(words, said, data, costly, tmp_path, monkeypatch, capsys, request):
    if "none.pth" in words and "pretrain" in words:  # it is the file itself that is looked for
        monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    words = words.replace("DATA", str(data)).replace("OUT", str(tmp_path / "out")).split()
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err and not costly and not (tmp_path / "out").exists()


def test_the_demo_looks_for_its_weights_before_it_draws(costly, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ENCODER_FILES, "tiny", "none.pth")
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert "none.pth" in capsys.readouterr().err and not costly and not (tmp_path / "out").exists()
