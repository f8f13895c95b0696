"""Configurations: JSON round trip, presets, and a clear sentence for everything that does not belong."""

import dataclasses
import json
import typing

import pytest

from emrrg_lib.config import (
    PRESETS,
    DataConfig,
    EMRRGConfig,
    EncoderConfig,
    GenerationConfig,
    LLMConfig,
    PartialLoRAConfig,
    TrainConfig,
    preset,
    replace,
    with_values,
)
from emrrg_lib.data.cleaning import RULES
from emrrg_lib.files import InputError
from emrrg_lib.settings import from_dict, to_dict
from emrrg_lib.training.ablation_rows import recipe
from emrrg_lib.training.engine import SCHEDULES
from emrrg_lib.training.pretrain import STAGE1_TINY
from emrrg_lib.training.stage1 import Stage1Config
from emrrg_lib.training.stage2 import Stage2Config


def read_back(config):
    return from_dict(json.loads(json.dumps(to_dict(config))), EMRRGConfig, "config")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = preset(name)
    assert read_back(config) == config
    assert config.preset == name


def test_changed_values_survive_json():
    config = replace(
        preset("tiny"),
        encoder=EncoderConfig(image_size=224, drop_path=0.25),
        partial_lora=PartialLoRAConfig(targets=("dt", "B"), r=4, scale=0.1, dropout=0.05),
        llm=LLMConfig(name="a/b", hybrid_layers=(3, 1), gate_input="H"),
        data=DataConfig(views="mean"),
    )
    read = read_back(config)
    assert read == config and read != preset("tiny")
    assert read.llm.hybrid_layers == (3, 1) and read.partial_lora.targets == ("dt", "B")


def test_what_a_file_leaves_out_has_the_default():
    assert from_dict({}, EMRRGConfig, "config") == EMRRGConfig()
    read = from_dict({"encoder": {"depth": 2}, "train": {"learning_rate": 1}}, EMRRGConfig, "config")
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


@pytest.mark.parametrize(
    "values, said",
    [
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
        ({"train": {"steps": -3}}, "config.train.steps must be at least 0, not -3"),
        ({"train": {"batch_size": 0}}, "config.train.batch_size must be at least 1, not 0"),
        ({"train": {"learning_rate": 0}}, "config.train.learning_rate must be above 0, not 0.0"),
        ({"train": {"learning_rate": float("nan")}}, "config.train.learning_rate must be finite, not nan"),
        ({"train": {"clip": float("inf")}}, "config.train.clip must be finite, not inf"),
        ({"train": {"seed": 2**32}}, "config.train.seed must be between 0 and 4294967295, not 4294967296"),
        ({"train": {"schedule": "flat"}}, "config.train.schedule must be hold or cosine, not 'flat'"),
        ({"llm": {"gate": ["none"]}}, "config.llm.gate must be dynamic+warm-up or dynamic or"),
        ({"encoder": {"drop_path": 1.5}}, "config.encoder.drop_path must be between 0 and 0.9999, not 1.5"),
        ({"generation": {"min_new_tokens": 9, "max_new_tokens": 8}}, "min_new_tokens, 9, must not exceed"),
    ],
)
def test_a_value_that_does_not_belong_is_named(values, said):
    with pytest.raises(InputError) as refusal:
        from_dict(values, EMRRGConfig, "config")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: TrainConfig(accumulation=0), "TrainConfig.accumulation must be at least 1, not 0"),
        (
            lambda: replace(preset("tiny").data, views="sum"),
            "DataConfig.views must be concat or mean, not 'sum'",
        ),
        (lambda: LLMConfig(dtype="float16"), "LLMConfig.dtype must be float32 or bfloat16, not 'float16'"),
        (lambda: PartialLoRAConfig(r=-2), "PartialLoRAConfig.r must be at least 1, not -2"),
        (lambda: PartialLoRAConfig(dropout=-0.1), "dropout must be between 0 and 0.9999, not -0.1"),
        (lambda: PartialLoRAConfig(dropout=1.0), "dropout must be between 0 and 0.9999, not 1.0"),
        (lambda: GenerationConfig(num_beams=0), "GenerationConfig.num_beams must be at least 1, not 0"),
        (
            lambda: with_values(preset("tiny"), ["data.max_views=0"]),
            "config.data.max_views must be at least 1",
        ),
        (lambda: TrainConfig(warm_steps=0, steps=0), "nothing would be trained: give train.warm_steps,"),
        (lambda: with_values(preset("tiny"), ["train.steps"]), "'train.steps' has no value: write KEY=VALUE"),
        (
            lambda: Stage1Config(objective="gan"),
            "Stage1Config.objective must be arg or eq2 or mae, not 'gan'",
        ),
        (lambda: Stage1Config(betas=(0.9,)), "Stage1Config.betas must hold 2 values, not 1"),
        (lambda: Stage2Config(betas=(0.9, 2.0)), "Stage2Config.betas must be between 0 and 0.9999, not 2.0"),
        (lambda: recipe(STAGE1_TINY, "default", ["steps=0"]), "the recipe.steps must be at least 1, not 0"),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_is_written(make, said):
    with pytest.raises(InputError) as refusal:
        make()
    assert said in str(refusal.value)


def test_the_choices_are_those_that_the_code_knows():
    def choices(kind, name):
        return set(typing.get_args(typing.get_type_hints(kind)[name]))

    assert choices(DataConfig, "cleaning") == set(RULES)
    assert choices(TrainConfig, "schedule") == choices(Stage2Config, "schedule") == set(SCHEDULES)


def test_an_unknown_preset_names_the_close_one():
    with pytest.raises(InputError, match="unknown preset 'tinny': did you mean 'tiny'"):
        preset("tinny")
    with pytest.raises(InputError, match="unknown preset 'qqqq': there are tiny"):
        preset("qqqq")
