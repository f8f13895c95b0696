"""The benchmarks: what they compare computes the same, and the command writes what it prints."""

import importlib
import json
import os
import subprocess
import sys

import psutil
import pytest
import torch
from torch import nn

from emrrg_lib.bench import KINDS, compare, gpu, interleaved, load
from emrrg_lib.bench.parts import linear_calls, scan_inputs, scan_pass
from emrrg_lib.cli import main
from emrrg_lib.files import QUIET_THREADS


def test_the_three_scans_compute_the_same():
    values = scan_inputs(length=7, dim=6)
    wanted = [tensor.detach() for tensor in scan_pass("reference", values)]
    for kind in ("naive", "cpu"):
        for got, reference in zip(scan_pass(kind, values), wanted, strict=True):
            assert torch.allclose(got, reference, rtol=1e-3, atol=1e-4 * float(reference.abs().max())), kind


def test_the_linear_layers_are_found_with_the_shapes_they_see(make_encoder):
    encoder = make_encoder(depth=2)
    calls = linear_calls(encoder, torch.randn(3, 3, 16, 16))
    assert len(calls) == sum(isinstance(m, nn.Linear) for m in encoder.modules()) == 2 * 13
    assert all(layer(x).shape == gradient.shape for layer, x, gradient in calls)


def test_tasks_take_turns_and_the_best_time_counts():
    order = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3 and set(seconds) == {"a", "b"} and min(seconds.values()) >= 0
    assert compare({"a": 1.0, "b": 2.5}, "a") == {
        "seconds": {"a": 1.0, "b": 2.5},
        "times_a": {"a": 1.0, "b": 2.5},
    }


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, QUIET_THREADS["GOMP_SPINCOUNT"]),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_waiting_threads_are_quiet_before_torch_comes_unless_the_user_says_otherwise(given, found):
    code = "import os, sys, emrrg_lib\nprint(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=kept | given, capture_output=True, text=True)
    assert done.stdout.split() == [found, "False"], done.stderr


def test_busy_processes_compute_and_end():
    def workers():
        return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]

    with load.busy_processes(2):
        assert len(workers()) == 2
    assert workers() == []


def test_bench_load_prints_every_setting_idle_and_busy(monkeypatch, capsys):
    def seconds(values, quick):
        threads = int(values.get("OMP_NUM_THREADS", 2))
        return {"training step": 1.0 + threads + len(psutil.Process().children()), "encoder": 2.0 * threads}

    monkeypatch.setattr(load, "_in_process", seconds)
    assert main(["bench", "load", "--quick", "--threads", "1"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["seconds"].keys() == {"idle", "busy"} and figures["setting"] == QUIET_THREADS
    idle, busy = figures["seconds"]["idle"], figures["seconds"]["busy"]
    assert idle.keys() == busy.keys() == {"as shipped", "without the setting", "one thread"}
    assert all(busy[name]["training step"] > idle[name]["training step"] for name in idle)
    assert figures["shipped"]["idle"]["times_one_thread"]["encoder"] == 2.0


def test_every_kind_has_its_function():
    for kind, (module, summary) in KINDS.items():
        assert summary.endswith(".")
        assert callable(getattr(importlib.import_module(f"emrrg_lib.bench.{module}"), kind.replace("-", "_")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scan", "encoder"])
def test_the_command_prints_and_writes_the_figures(kind, tmp_path, capsys):
    assert main(["bench", kind, "--quick", "--threads", "1", "--json", str(tmp_path / "b.json")]) == 0
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["versions"]["torch"] and record["hardware"]["threads"] == 1
    assert record["what"] == f"bench {kind}" and record["quick"] is True
    assert json.loads(capsys.readouterr().out.split("\nWrote ")[0]) == record


def test_bench_gpu_runs_its_parts_on_the_cpu_and_turns_the_lines_into_tables(tmp_path, capsys):
    file = tmp_path / "gpu.jsonl"
    assert main(["bench", "gpu", "--device", "cpu", "--json", str(file)]) == 0
    assert capsys.readouterr().out == file.read_text()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    parts = ["environment", "parity", "kernel_times", "training", "generation"]
    assert list(dict.fromkeys(line["part"] for line in lines)) == parts
    assert all(line["error"] < 0.02 for line in lines if line["part"] == "parity")
    assert main(["bench", "gpu", "--report", str(file)]) == 0
    text = capsys.readouterr().out
    assert all(f"{part}\n\n| " in text for part in parts)
    assert main(["bench", "gpu", "--report", str(tmp_path / "none")]) == 2


def test_a_part_that_fails_or_hangs_ends_in_an_error_line(monkeypatch):
    assert list(gpu.run_part("nothing", "cpu", 100)) == [{"error": "KeyError: 'nothing'"}]
    assert list(gpu.run_part("training", "cpu", 0.01)) == [{"error": "the time limit"}]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "gpu"]) == 2
