"""The model card of a run and the folder for a hub."""

import json
import shutil

import pytest
import yaml

from emrrg_lib import cli
from emrrg_lib.files import TINY_DIR, InputError
from emrrg_lib.run.inference import export_hub_folder, write_card

RUN = TINY_DIR / "run"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(RUN, tmp_path / "mine")


def test_the_card_has_a_head_for_the_hub_data_scores_and_use(run):
    text = write_card(run).read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "emrrg-kit"
    metrics = json.loads((run / "metrics.json").read_text())
    for row in metrics["rows"]:
        assert f"| {row['system']} |" in body
    assert "Not for clinical use" in body and "constant report" in body
    assert "Partial LoRA on X, in_proj (r = 8)" in body and "hybrid layers: 0, 1, 2, 3" in body
    assert "on a real X-ray its report means nothing" in body


def test_a_run_that_is_not_scored_says_so(run):
    (run / "metrics.json").unlink()
    assert "Not scored yet" in write_card(run).read_text()


def test_a_hub_folder_can_be_used_in_place_of_the_run(run, tmp_path, capsys):
    out = tmp_path / "upload"
    assert cli.main(["export", "--run", str(run), "--hub-folder", str(out)]) == 0
    assert "nothing is uploaded" in capsys.readouterr().out
    names = {"README.md", "config.json", "run.json", "trained.safetensors"}
    assert {path.name for path in out.iterdir()} == names
    same = [(out / name).read_bytes() == (run / name).read_bytes() for name in names]
    assert all(same)
    assert cli.main(["export", "--run", str(out), "--out", str(tmp_path / "e.safetensors")]) == 0
    assert cli.main(["export", "--run", str(run), "--hub-folder", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_what_is_no_finished_run_is_refused_and_nothing_is_written(run, tmp_path):
    (run / "trained.safetensors").unlink()
    with pytest.raises(InputError, match="no trained.safetensors"):
        export_hub_folder(run, tmp_path / "upload")
    assert not (tmp_path / "upload").exists()
    (run / "run.json").unlink()
    with pytest.raises(InputError, match="run.json"):
        write_card(run)
