"""What every notebook begins with: the run of a profile, the model with its picture, the scratch folder."""

import html
import os
from pathlib import Path

from emrrg_lib.course.notebook import (
    SHIPPED_RUN,
    no_bars,
    open_profile,
    own_run,
    run_of,
    scratch_folder,
    stored_figures,
)
from emrrg_lib.files import KIT


def test_tiny_is_the_shipped_run_or_the_one_that_the_variable_names(monkeypatch, tmp_path):
    monkeypatch.delenv("EMRRG_RUN", raising=False)
    assert run_of() == SHIPPED_RUN and run_of("iu-xray") == KIT / "runs" / "iu-xray"
    monkeypatch.setenv("EMRRG_RUN", str(tmp_path))
    assert run_of() == tmp_path and run_of("iu-xray") == KIT / "runs" / "iu-xray"


def test_the_own_run_is_a_finished_one(monkeypatch, tmp_path):
    monkeypatch.setenv("EMRRG_RUN", str(tmp_path))
    assert own_run() != tmp_path
    (tmp_path / "metrics.json").write_text("{}", encoding="utf-8")
    assert own_run() == tmp_path


def test_a_profile_is_a_trained_model_its_settings_and_a_picture_of_its_sizes(monkeypatch):
    monkeypatch.delenv("EMRRG_RUN", raising=False)
    model, settings, picture = open_profile(lit="gate")
    assert model.settings is settings and settings.preset == "tiny" and model.device.type == "cpu"
    assert hasattr(picture, "_repr_svg_") or hasattr(picture, "_repr_mimebundle_") or picture.axes


def test_the_scratch_folder_holds_the_cache_and_goes(monkeypatch):
    monkeypatch.setenv("EMRRG_CACHE", "before")
    scratch = scratch_folder()
    folder = Path(scratch.name)
    assert folder.is_dir() and Path(os.environ["EMRRG_CACHE"]).parent == folder
    scratch.cleanup()
    assert not folder.exists()


def test_no_bars_keeps_text_off_the_page(capsys):
    with no_bars():
        print("a bar")
    print("a result")
    assert capsys.readouterr().out == "a result\n"


def test_stored_figures_carry_their_sentence_and_fold():
    told = (KIT / "data" / "results" / "gate" / "figure.txt").read_text(encoding="utf-8")
    assert html.escape(told.strip()) in stored_figures("gate").data
    folded = stored_figures("gate", "rank", fold=True).data
    assert folded.count("<details>") == 2 and "<summary>rank</summary>" in folded
