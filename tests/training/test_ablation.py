"""Ablation tables: every row is a valid configuration, jobs are done once, pre-trained encoders are used."""

import dataclasses
import json
import typing

import pandas as pd
import pytest
import torch
from small_runs import on_disk

from emrrg_lib import cli
from emrrg_lib.config import Gate, TrainConfig
from emrrg_lib.files import InputError
from emrrg_lib.interpret.figures_scores import ablation_figure, mean_and_spread
from emrrg_lib.language.cross_attention import GatedCrossAttention
from emrrg_lib.language.hybrid_decoder import install_hybrid_layers
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import PRESETS, preset
from emrrg_lib.training import ablation
from emrrg_lib.training.ablation_rows import hybrid_layers, names, paper_values, read_rows, recipe, row_config
from emrrg_lib.training.pretrain import STAGE1_TINY
from emrrg_lib.tuning.policy import ledger
from emrrg_lib.vision.weights import require_encoder

NAMES = {
    "table5",
    "table6",
    "cxpmrg-table2",
    "decoder",
    "cxpmrg-table4",
    "cxpmrg-table5",
    "llm-swap",
    "hybrid-layers",
    "rank",
    "gate",
    "visual-in-prompt",
}
TRAIN = TrainConfig(warm_steps=2, steps=1, batch_size=4, validations=1, warmup_steps=1, seed=3)


@pytest.fixture
def config(tmp_path, small_config, make_encoder, make_llm, tokenizer, monkeypatch):
    base = on_disk(tmp_path, small_config, make_encoder(), make_llm(), tokenizer)
    monkeypatch.setitem(PRESETS, "small", dataclasses.replace(base, train=TRAIN))
    return PRESETS["small"]


@pytest.fixture
def no_java(monkeypatch):
    """Without Java METEOR is left out, which takes seconds."""
    monkeypatch.setattr("emrrg_lib.evaluation.meteor.java_commands", lambda: [])


def test_every_table_is_there_and_every_row_can_be_built_and_found_in_the_paper():
    assert set(names()) == NAMES
    rows = [(name, row) for name in names() for row in read_rows(name)]
    firsts = [read_rows(name)[0] for name in names()]
    for _, row in rows:
        assert bool(paper_values(row)) == bool(row.paper_table), row
        config = row_config(preset("tiny"), row)
        if row in firsts and config.encoder.kind == "mamba":
            with torch.device("meta"):
                assert sum(entry.trained for entry in ledger(EMRRG.from_sizes(config))) > 0
    assert [len(read_rows(name)) for name in ("table5", "table6", "gate", "cxpmrg-table2")] == [6, 11, 4, 13]


def test_published_values_stand_by_their_row():
    hybrid = read_rows("table5", ["LoRA_P(X) / LLM + hybrid layers"])[0]
    assert paper_values(hybrid)["IU X-Ray"]["CIDEr"] == 0.476
    large = read_rows("cxpmrg-table4", ["large, ARG + CTL"])[0]
    assert {data: v["Bleu_4"] for data, v in paper_values(large).items()} == {
        "MIMIC-CXR": 0.133,
        "CheXpert Plus": 0.112,
    }
    llama = read_rows("llm-swap", ["Llama-2-7B"])[0]
    assert paper_values(llama)["CheXpert Plus"]["CE_F1"] == 0.260  # 6.7 B, not 13 B


@pytest.mark.parametrize(
    "choice, count, wanted",
    [
        ("none", 4, ()),
        ("first", 4, (0,)),
        ("all", 3, (0, 1, 2)),
        ("every:2", 5, (0, 2, 4)),
        ("spread:4", 24, (0, 6, 12, 18)),
        ("spread:4", 32, (0, 8, 16, 24)),
        ("spread:4", 30, (0, 7, 14, 21)),
    ],
)
def test_words_for_hybrid_layers(choice, count, wanted):
    assert hybrid_layers(choice, count) == wanted


def test_large_is_the_papers_large():
    row = read_rows("cxpmrg-table4", ["large, ARG"])[0]
    sizes = row_config(preset("mambaxray-vl-base"), row).encoder
    assert (sizes.embed_dim, sizes.depth) == (1024, 24)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:METEOR is not computed")
def test_every_row_is_trained_once_and_scored(tmp_path, config, phantom_dir, no_java, capsys):
    words = [
        "ablate",
        "hybrid-layers",
        "--preset",
        "small",
        "--data",
        str(phantom_dir),
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "2",
        "--rows",
        "first",
        "every 2nd",
        "all",
    ]
    assert cli.main(words) == 0
    trained = {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/jobs/*/*/run.json")}
    assert len(trained) == 4  # of two layers every second is the first
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    ours = table[table.source == "this run"]
    assert ours.row.tolist() == ["first"] * 2 + ["every 2nd"] * 2 + ["all"] * 2
    assert ours.seed.tolist() == [3, 4] * 3 and ours.note[2] == "same settings as first"
    assert ours[["Bleu_4", "CIDEr", "CE13_micro_F1", "CE14neg_macro_P", "minutes"]].notna().all(axis=None)
    controls = table[table.source == "control"].set_index("row")
    assert controls.index.tolist() == [
        "constant report",
        "most frequent report",
        "random training report",
        "oracle re-wording",
        "oracle, commonest wording",
        "shuffled images",
    ]
    assert controls.loc["oracle re-wording", "CE13_micro_F1"] == 1
    before = (tmp_path / "out" / "results.csv").read_text()
    assert cli.main(words) == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/jobs/*/*/run.json")} == trained
    assert (tmp_path / "out" / "results.csv").read_text() == before
    assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["seeds"] == 2 and len(record["rows"]) == 3
    assert cli.main([*words, "--set", "train.warm_steps=1"]) == 1  # not the same training: rows are refused
    assert "train.warm_steps: 2 -> 1" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:METEOR is not computed")
def test_a_stopped_job_goes_on_and_missing_weights_are_named(
    tmp_path, config, phantom_dir, no_java, monkeypatch
):
    def killed(*arguments, **keywords):
        raise KeyboardInterrupt

    run = {"config": config, "data": phantom_dir, "out": tmp_path / "out", "seeds": 1}
    with monkeypatch.context() as patch:
        patch.setattr(ablation, "score_job", killed)
        with pytest.raises(KeyboardInterrupt):
            ablation.run_ablation("gate", only=["static"], **run)
    with monkeypatch.context() as patch:
        patch.setattr(ablation, "run_finetune", killed)  # the training is not done again
        table, refused = ablation.run_ablation("gate", only=["static"], **run)
    assert not refused and "static" in table.read_text()
    with pytest.raises(InputError, match="no setting 'warmsteps'"):
        ablation.run_ablation("gate", values=["train.warmsteps=1"], **run)
    table, refused = ablation.run_ablation("llm-swap", only=["Llama-2-7B"], **run)
    assert "licence" in refused["Llama-2-7B"] and "left out" in table.read_text()


@pytest.mark.parametrize("name", ["ViT, CTL", "base, ARG", "base, MAE", "base, ARG + CTL"])
def test_a_row_pre_trains_its_encoder_once(tmp_path, config, phantom_dir, monkeypatch, name):
    row = read_rows("cxpmrg-table4", [name])[0]
    short = [
        "stage1.steps=2",
        "stage1.batch_size=4",
        "stage1.decoder_dim=16",
        "stage2.steps=2",
        "stage2.batch_size=4",
        "stage2.projection_dim=8",
    ]
    jobs = [ablation.plan_job(row, seed, config, phantom_dir, tmp_path, short) for seed in (0, 1)]
    assert jobs[0].config.encoder_weights == jobs[1].config.encoder_weights
    weights = EMRRG.from_preset(jobs[0].config).encoder.state_dict()
    again = EMRRG.from_preset(jobs[1].config).encoder.state_dict()
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    stages = sorted(path.name[:6] for path in (tmp_path / "pretrained").iterdir())
    assert stages == [stage for stage, cell in (("stage1", row.stage1), ("stage2", row.stage2)) if cell]


def test_classic_decoders_have_the_size_of_their_preset():
    for base, llms in (("tiny", ["tiny", "transformer-tiny", "r2gen-tiny"]), ("iu-xray", ["r2gen"])):
        made = [row_config(preset(base), row).llm for row in read_rows("decoder")[-len(llms) :]]
        assert [llm.name for llm in made] == llms and not made[-1].hybrid_layers


def test_imagenet_rows_take_a_file_and_say_which_is_missing(tmp_path, config, phantom_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for size in ("base", "large"):
        (row,) = read_rows("cxpmrg-table4", [f"{size}, ImageNet"])
        job = ablation.plan_job(row, 0, config, phantom_dir, tmp_path, [])
        assert job.config.encoder_weights == f"arm-{size}" and job.config.encoder_tuning == "full"
        with pytest.raises(InputError, match=f"arm_{size}_pz16 on ImageNet.*--set encoder_weights=FILE$"):
            require_encoder(job.config)
        given = [f"encoder_weights={config.encoder_weights}"]
        job = ablation.plan_job(row, 0, config, phantom_dir, tmp_path, given)
        require_encoder(job.config)
        assert job.config.encoder_weights == config.encoder_weights


def test_recipes_take_words_and_refuse_unknown_ones():
    made = recipe(STAGE1_TINY, "objective=mae", ["steps=7"])
    assert (made.objective, made.steps, made.decoder_dim) == ("mae", 7, 64)
    with pytest.raises(InputError, match="the recipe has no setting 'step'"):
        recipe(STAGE1_TINY, "default", ["step=7"])


@pytest.mark.parametrize(
    "value, message",
    [
        ("train.stps=3", "config.train has no setting 'stps'"),
        ("stage1.step=3", "the recipe has no setting 'step'"),
        ("stage2.steps=3", "no row here is pre-trained by stage2"),
        ("steps=3", "config has no setting 'steps'"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_drawn(tmp_path, capsys, value, message):
    assert cli.main(["ablate", "gate", "--out", str(tmp_path / "out"), "--set", value]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "data").exists()


@pytest.mark.parametrize("gate", typing.get_args(Gate))
def test_each_gate_computes_its_formula(gate):
    norm = torch.nn.Identity()
    module = GatedCrossAttention(8, 2, 2, 4, norm, gate=gate).double()
    S, query = torch.randn(1, 3, 8).double(), torch.randn(1, 2, 3, 4).double()
    V = torch.randn(1, 5, 8).double()
    with torch.no_grad():
        if isinstance(module.warm_up, torch.nn.Parameter):
            assert torch.equal(module(S, query, V, None, None), S)  # alpha is 0
            module.warm_up.fill_(0.4)
        keys, values = (p(V).unflatten(-1, (2, 4)).transpose(1, 2) for p in (module.k_proj, module.v_proj))
        X = ((query @ keys.transpose(2, 3) / 2).softmax(-1) @ values).transpose(1, 2).flatten(2)
        factor = torch.ones(1, 3, 1).double()
        if "dynamic" in gate:
            factor = torch.tanh(S @ module.gate_proj.weight[0] + module.gate_proj.bias)[..., None]
        if gate in ("static", "dynamic+warm-up"):
            factor = factor * torch.tanh(torch.tensor(0.4).double())
        torch.testing.assert_close(module(S, query, V, None, None), S + X * factor)
    wanted = {"k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"}
    wanted |= {"gate_proj.weight", "gate_proj.bias"} if "dynamic" in gate else set()
    assert set(module.state_dict()) == wanted | (
        {"warm_up"} if gate in ("dynamic+warm-up", "static") else set()
    )


def test_an_unknown_gate_is_refused(make_model, small_config):
    with pytest.raises(InputError, match="gate must be dynamic.warm-up or dynamic or .*, not 'open'"):
        install_hybrid_layers(make_model(small_config).llm, (0,), gate="open")


def test_the_figure_says_every_number():
    rows = {"a": [{"Bleu_4": 0.1, "CIDEr": 0.5}, {"Bleu_4": 0.3, "CIDEr": None}], "b": []}
    picture = ablation_figure(
        "t", rows, {"constant report": {"Bleu_4": 0.05}}, {"a": {"IU X-Ray": {"Bleu_4": 0.175}}}
    )
    assert picture.alt == (
        "Ablation t. a: BLEU-4 0.200 ± 0.141, CIDEr 0.500; paper, IU X-Ray: BLEU-4 0.175. "
        "b: no value. constant report: BLEU-4 0.050."
    )
    assert len(picture.axes) == 4  # three metrics, and the paper's BLEU-4
    assert mean_and_spread([], "Bleu_4") is None
