"""The paper's system at full size, built with random weights and taken once through everything."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_iu_xray_fits_in_20_gb_and_every_trained_tensor_learns(tmp_path):
    """`emrrg bench full-size` itself raises where a trained tensor gets no gradient."""
    file = tmp_path / "full.json"
    subprocess.run([sys.executable, "-m", "emrrg_lib", "bench", "full-size", "--json", str(file)], check=True)
    figures = json.loads(file.read_text())["figures"]
    assert figures["parameters"] == 1_957_683_976 and figures["trained"] == 36_632_584
    assert figures["peak_memory_gib"] <= 20 and 5 < figures["loss"] < 20
