"""Configurations: JSON round trip, presets, and a clear sentence for everything that does not belong."""

import dataclasses
import json

import pytest

from emrrg_lib.config import (
    PRESETS,
    DataConfig,
    EMRRGConfig,
    EncoderConfig,
    LLMConfig,
    PartialLoRAConfig,
    from_dict,
    preset,
    replace,
    to_dict,
)
from emrrg_lib.errors import InputError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = preset(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert config.preset == name


def test_changed_values_survive_json():
    config = replace(
        preset("tiny"), encoder=EncoderConfig(image_size=224, drop_path=0.25),
        partial_lora=PartialLoRAConfig(targets=("dt", "B"), r=4, scale=0.1, dropout=0.05),
        llm=LLMConfig(name="a/b", hybrid_layers=(3, 1), gate_input="H"), data=DataConfig(views="mean"))
    read = from_dict(json.loads(json.dumps(to_dict(config))))
    assert read == config and read != preset("tiny")
    assert read.llm.hybrid_layers == (3, 1) and read.partial_lora.targets == ("dt", "B")


def test_what_a_file_leaves_out_has_the_default():
    assert from_dict({}) == EMRRGConfig()
    read = from_dict({"encoder": {"depth": 2}, "train": {"learning_rate": 1}})
    assert read.encoder == EncoderConfig(depth=2)
    assert read.train.learning_rate == 1.0 and isinstance(read.train.learning_rate, float)


def test_the_defaults_are_the_papers():
    config = EMRRGConfig()
    assert (config.encoder.image_size, config.encoder.side, config.encoder.num_patches) == (192, 12, 144)
    assert (config.encoder.embed_dim, config.encoder.depth) == (768, 12)
    assert config.partial_lora == PartialLoRAConfig(("X", "in_proj"), 32, 1.0, 0.0)
    assert preset("tiny").encoder.num_patches == 144


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("tiny").encoder.depth = 3


@pytest.mark.parametrize("values, said", [
    ({"encodr": {}}, "config has no setting 'encodr'; it has preset, encoder,"),
    ({"encoder": {"size": 3}}, "config.encoder has no setting 'size'; it has image_size, patch_size"),
    ({"encoder": {"depth": "12"}}, "config.encoder.depth must be int, not '12'"),
    ({"encoder": {"depth": 12.0}}, "config.encoder.depth must be int, not 12.0"),
    ({"encoder": {"depth": True}}, "config.encoder.depth must be int, not True"),
    ({"encoder": {"depth": None}}, "config.encoder.depth must be int, not None"),
    ({"encoder": {"drop_path": "x"}}, "config.encoder.drop_path must be float, not 'x'"),
    ({"encoder": {"drop_path": False}}, "config.encoder.drop_path must be float, not False"),
    ({"encoder": []}, "config.encoder must be a JSON object, not list"),
    ({"llm": {"hybrid_layers": 3}}, "config.llm.hybrid_layers must be a list, not 3"),
    ({"llm": {"hybrid_layers": [0, "1"]}}, "config.llm.hybrid_layers must be int, not '1'"),
    ({"preset": 3}, "config.preset must be str, not 3"),
    ([], "config must be a JSON object, not list"),
])
def test_a_value_that_does_not_belong_is_named(values, said):
    with pytest.raises(InputError) as refusal:
        from_dict(values)
    assert said in str(refusal.value)


def test_an_unknown_preset_names_the_close_one():
    with pytest.raises(InputError, match="unknown preset 'tinny': did you mean 'tiny'"):
        preset("tinny")
    with pytest.raises(InputError, match="unknown preset 'qqqq': there are tiny"):
        preset("qqqq")
