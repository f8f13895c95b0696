"""`emrrg explore`: the arrays that it reads from a model, its pages, and the links of report.html."""

import dataclasses
import json
import os
import re
import time
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import on_disk

from emrrg_lib import cli
from emrrg_lib.data.cleaning import clean_report
from emrrg_lib.data.sources import read_dataset
from emrrg_lib.data.study_set import pixels
from emrrg_lib.files import TINY_DIR, write_json
from emrrg_lib.interpret.page import write_run_page
from emrrg_lib.language.prompt import text_batch
from emrrg_lib.model import EMRRG
from emrrg_lib.phantom import draw_study
from emrrg_lib.run.explore import (
    Case,
    adapter_losses,
    explorers_of,
    lora_targets,
    scan_arrays,
    write_example_pages,
    write_explorers,
)
from emrrg_lib.run_folder import explorer_file, trace_file, write_config, write_predictions, write_trained
from emrrg_lib.run_record import run_record
from emrrg_lib.tuning.partial_lora import adapter_name

KINDS = ["words", "gate", "scan", "lora"]


def kinds_of(page):
    found = re.findall(r'data-explorer="([^"]*)"', page.read_text(encoding="utf-8"))
    return [json.loads(unescape(part))["kind"] for part in found]


@pytest.fixture
def run(tmp_path, small_config, make_encoder, make_llm, tokenizer, phantom_dir):
    """A finished run of the small model on phantoms."""
    config = on_disk(tmp_path, small_config, make_encoder(), make_llm(), tokenizer)
    write_config(tmp_path / "run", config)
    write_trained(tmp_path / "run", EMRRG.from_preset(config))
    record = run_record("stage 3", time.time(), data=str(phantom_dir), seed=0)
    write_json(tmp_path / "run" / "run.json", record)
    return tmp_path / "run"


def test_the_parts_of_the_directions_add_up_to_the_mixer(make_encoder):
    mixer = make_encoder().layers[1].mixer
    tokens = torch.randn(1, 17, 16)
    memory, outputs = scan_arrays(mixer, tokens)
    with torch.no_grad():
        assert outputs.sum(axis=0) == pytest.approx(mixer(tokens)[0].numpy(), abs=1e-5)
    assert memory.shape == (4, 17, 17) and not np.triu(memory, 1).any()
    turned, _ = scan_arrays(mixer, tokens.flip(1))  # the cls token is in the middle of either order
    assert turned[0] == pytest.approx(scan_arrays(mixer, tokens.flip(1))[0][0])
    assert (np.diff(memory[0][:, 3][3:]) <= 1e-9).all()  # a token only fades


def test_targets_have_the_parameters_and_changes_of_the_adapters(make_model):
    model = make_model()
    targets = {target.name: target for target in lora_targets(model.encoder.get_base_model())}
    trained = [name for name, target in targets.items() if target.delta is not None]
    assert trained == list(model.settings.partial_lora.targets) == list(targets)[: len(trained)]
    for name in trained:
        own = [p for n, p in model.named_parameters() if f".{adapter_name(name)}." in n]
        assert sum(p.numel() for p in own) == targets[name].parameters(model.settings.partial_lora.r)
    X = targets["X"]
    assert X.rows == (0, 16) and not X.delta[:, 16:].any() and X.delta[:, :16].all()
    assert X.matrices == ["block 0", "block 1"] and targets["x_proj"].matrices[1] == "block 0 b"


def mean_losses(model, studies):
    """Of each study: the loss, from the model's own forward."""
    data, found = model.settings.data, []
    for study in studies:
        report = clean_report(study.report, data.cleaning)
        text = text_batch(
            model.tokenizer, data.prompt, [report], data.max_length, image=model.settings.llm.image_in_prompt
        )
        images, mask = pixels([study], model.settings)
        with torch.no_grad():
            found.append(float(model(view_mask=mask, pixel_values=images, **text)["loss"]))
    return found


def test_losses_without_adapters_and_at_a_smaller_rank(make_model):
    model, studies = make_model(), [draw_study(0, number, 16) for number in range(3)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = adapter_losses(model, studies)
    assert list(losses) == ["as trained", "without any", "without X", "without in_proj", "rank 1"]
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # the adapters are back
    assert losses["as trained"] == pytest.approx(mean_losses(model, studies))
    with model.untouched_encoder():
        assert losses["without any"] == pytest.approx(mean_losses(model, studies))
    assert losses["without any"] != pytest.approx(losses["as trained"], abs=1e-4)

    encoder = model.encoder.get_base_model()
    with torch.no_grad():  # the best approximation of rank 1 by eigenvectors, in the frozen matrices
        for target in lora_targets(encoder)[:2]:
            modules = (layer.mixer.in_proj for layer in encoder.layers)
            for module, delta in zip(modules, torch.tensor(target.delta), strict=True):
                vector = torch.linalg.eigh(delta.T @ delta)[1][:, -1:]
                module.base_layer.weight += delta @ vector @ vector.T
    with model.untouched_encoder():
        assert losses["rank 1"] == pytest.approx(mean_losses(model, studies), abs=1e-4)


def test_a_model_without_hybrid_layers_has_scans_and_lora(make_model, small_config):
    llm = dataclasses.replace(small_config.llm, hybrid_layers=(), visual_in_prompt="all")
    plain = make_model(dataclasses.replace(small_config, llm=llm))
    found = explorers_of(plain, draw_study(0, 1, 16))
    assert [explorer.kind for explorer in found] == ["scan", "lora"]


def test_a_study_by_number_and_by_id_and_own_images(run, tmp_path, phantom_dir, capsys):
    studies = read_dataset(phantom_dir).split("test")
    first = write_explorers(run, "1")
    assert first == explorer_file(run, studies[0].id) and kinds_of(first)[-2:] == KINDS[-2:]
    assert studies[0].id in first.read_text("utf-8") and "Synthetic X-ray" in first.read_text("utf-8")
    by_id = write_explorers(run, studies[-1].id, out=tmp_path / "new" / "page.html")
    assert studies[-1].id in by_id.read_text("utf-8")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70).save(tmp_path / "own.png")
    own = ["explore", "--run", str(run), "--images", str(tmp_path / "own.png")]
    assert cli.main([*own, "--out", str(tmp_path / "own.html")]) == 0
    assert "own.html" in capsys.readouterr().out and "Explorers of own" in (tmp_path / "own.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--study", "0"], "no study '0' in the test split"),
        (["--study", "../x"], "give a number from 1 to"),
        (["--images", "nowhere.png"], "no image file at nowhere.png"),
        (["--images", __file__], "is not an image this kit reads"),
        (["--images", "a.png", "b.png", "c.png"], "this model takes 1 to 2 views"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(run, words, told, capsys):
    before = sorted(run.rglob("*"))
    assert cli.main(["explore", "--run", str(run), *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and told in lines[0] and sorted(run.rglob("*")) == before


def test_report_html_links_the_explorers_of_its_examples(run, make_model, phantom_dir):
    studies = read_dataset(phantom_dir).split("test")[:2]
    rows = [{"id": study.id, "reference": study.report, "hypothesis": "a ."} for study in studies]
    write_predictions(run, rows)
    row = {"system": "model", "metrics": {"Bleu_4": 0.1}}
    metrics = {"dataset": "phantoms", "split": "test", "labeler": "rules", "rows": [row]}
    write_json(run / "metrics.json", metrics)
    assert "explorers/" not in write_run_page(run).read_text("utf-8")
    trace = explorers_of(EMRRG.from_run(TINY_DIR / "run"), draw_study(7, 3, 96))[1].trace
    trace.save(trace_file(run, studies[0].id))
    write_example_pages(run)
    page = explorer_file(run, studies[0].id)
    assert kinds_of(page) == ["words", "gate"]
    text = write_run_page(run).read_text("utf-8")
    assert text.count('href="explorers/') == 1 and f'href="explorers/{page.name}"' in text
    page.write_text("a whole page")
    write_example_pages(run)
    assert page.read_text() == "a whole page"  # newer than the trace
    os.utime(page, (1, 1))
    write_example_pages(run)
    assert kinds_of(page) == ["words", "gate"]


def test_the_shipped_run_is_explored_on_a_phantom(tmp_path):
    page = write_explorers(TINY_DIR / "run", "3", out=tmp_path / "page.html")
    assert kinds_of(page) == KINDS and page.stat().st_size < 2_000_000
    text = page.read_text("utf-8")
    assert draw_study(7, 3).report.split(".")[0] in unescape(text)
    assert "they do nothing here" in text  # the shipped adapters


def test_arrays_and_files_are_the_same_case(tmp_path, make_model):
    study = draw_study(0, 1, 16)
    files = []
    for view, image in enumerate(study.images):
        Image.fromarray(image).save(tmp_path / f"{view}.png")
        files.append(tmp_path / f"{view}.png")
    model = make_model()
    one, other = (explorers_of(model, case)[-2] for case in (study, Case(files)))
    assert one.memory == pytest.approx(other.memory)
