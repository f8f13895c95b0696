"""The shipped weights and run: they load, fit the preset, and write reports for real files."""

import json

from real_files import IU, real

from emrrg_lib.files import TINY_DIR
from emrrg_lib.model import EMRRG
from emrrg_lib.presets import preset
from emrrg_lib.run.costs import describe_map
from emrrg_lib.run.inference import generate_for_files
from emrrg_lib.tuning.policy import ledger

RUN = TINY_DIR / "run"


def test_shipped_files_are_small_and_say_how_they_were_made():
    files = [path for path in TINY_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    for folder in ("encoder", "report_lm", "run"):
        record = json.loads((TINY_DIR / folder / "run.json").read_text())
        assert record["minutes"] > 0 and record["history"]


def test_preset_fits_its_weights_and_the_ledger_adds_up():
    model = EMRRG.from_preset("tiny")
    assert model.settings == preset("tiny")
    entries = ledger(model)
    assert sum(e.parameters for e in entries) == sum(p.numel() for p in model.parameters())
    trained = {e.part for e in entries if e.trained}
    assert trained == {
        "Partial LoRA",
        "projector, view embedding",
        "cross-attention W_k, W_v",
        "dynamic gate, warm-up α",
    }
    assert f"{sum(e.trained for e in entries):,}" in describe_map(preset("tiny"))


def test_seeds_of_pretraining_and_demo_differ():
    made = json.loads((TINY_DIR / "encoder" / "run.json").read_text())["config"]["seed"]
    assert made != json.loads((RUN / "run.json").read_text())["seed"]


@real
def test_real_x_rays_get_a_report_and_a_warning():
    images = sorted((IU / "images").glob("CXR1000_*.jpg"))[:2]
    report, note = generate_for_files(RUN, images, greedy=True)
    assert report.endswith(".") and "on a real X-ray its report means nothing" in note
    assert generate_for_files(RUN, images[:1], greedy=True)[0]
