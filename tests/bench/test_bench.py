"""The benchmarks: what they compare computes the same, and the command writes what it prints."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from transformers.models.mamba import modeling_mamba

from emrrg_lib.bench import KINDS, compare, gpu, gpu_parts, interleaved, parts
from emrrg_lib.bench.scans import both_ways, every_way, first_calls, linear_calls, scan_inputs
from emrrg_lib.cli import main
from emrrg_lib.files import KIT, QUIET_THREADS


@pytest.mark.parametrize("name", ["cpu", "storing loop", "mambapy", "transformers"])
def test_the_rivals_compute_what_the_loop_computes(name):
    if name == "mambapy":
        pytest.importorskip("mambapy")
    if name == "transformers" and not hasattr(modeling_mamba, "mamba_selective_scan"):
        pytest.skip("this release of transformers has another path")
    ways, values = every_way(), scan_inputs(length=7, dim=6, batch=3)
    wanted = both_ways(ways["loop"], values)
    for got, loop in zip(both_ways(ways[name], values), wanted, strict=True):
        assert torch.allclose(got, loop, rtol=1e-3, atol=1e-4 * float(loop.detach().abs().max())), name


def test_a_rival_that_does_not_run_is_named_with_its_reason():
    def broken(*values):
        raise ModuleNotFoundError("No module named 'mambapy'\nmore")

    first, missing = first_calls({"loop": every_way()["loop"], "mambapy": broken}, scan_inputs(5, 6))
    assert list(first) == ["loop"] and first["loop"] >= 0
    assert missing == {"mambapy": "ModuleNotFoundError: No module named 'mambapy'"}


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
        return [p for p in psutil.Process().children() if "while True" in " ".join(p.cmdline())]

    with parts.busy_processes(2):
        end = time.monotonic() + 60  # a process has its own command line a moment after it is there
        while len(workers()) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(workers()) == 2
    assert workers() == []


def test_bench_load_prints_every_setting_idle_and_busy(monkeypatch, capsys):
    def seconds(values, quick):
        threads = int(values.get("OMP_NUM_THREADS", 2))
        return {"training step": 1.0 + threads + len(psutil.Process().children()), "encoder": 2.0 * threads}

    monkeypatch.setattr(parts, "_in_process", seconds)
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
@pytest.mark.parametrize("kind", ["scan", "encoder", "rivals"])
def test_the_command_prints_and_writes_the_figures(kind, tmp_path, capsys):
    assert main(["bench", kind, "--quick", "--threads", "1", "--json", str(tmp_path / "b.json")]) == 0
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["versions"]["torch"] and record["hardware"]["threads"] == 1
    assert record["what"] == f"bench {kind}" and record["quick"] is True
    assert json.loads(capsys.readouterr().out.split("\nWrote ")[0]) == record


RECORDED = Path(__file__).with_name("gpu_cpu.jsonl")  # of --device cpu


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_readme_names_the_parts_in_their_order():
    text = (KIT / "emrrg_lib" / "README.md").read_text(encoding="utf-8").split("| part | what it finds |")[1]
    assert re.findall(r"^\| `(\w+)` \|", text.split("\n\n")[0], re.MULTILINE) == list(gpu.LIMITS)


def test_bench_gpu_runs_its_parts_on_the_cpu_once(tmp_path, capsys):
    file = tmp_path / "gpu.jsonl"
    words = ["bench", "gpu", "--device", "cpu", "--json", str(file)]
    file.write_text('{"part": "parity", "largest": 9}\n{"part": "kernel_times", "done_minutes": 1}\n{"cut')
    assert main([*words, "--parts", "parity,kernel_times,training,generation"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines_of(file) == [{"part": "kernel_times", "done_minutes": 1}, *shown]
    assert list(dict.fromkeys(line["part"] for line in shown)) == [
        "environment",
        "parity",
        "training",
        "generation",
    ]
    assert all(line["largest"] < 0.02 for line in shown if "largest" in line)
    before = file.read_text()
    assert main([*words, "--parts", "training"]) == 0  # it has ended
    assert capsys.readouterr().out == "" and file.read_text() == before
    assert main([*words, "--minutes", "1"]) == 0  # no other part fits
    assert {line["part"] for line in map(json.loads, capsys.readouterr().out.splitlines())} == (
        gpu.LIMITS.keys() - {"environment", "parity", "kernel_times", "training", "generation"}
    )
    assert file.read_text() == before


@pytest.mark.skipif(
    "fsdp_version" not in FullyShardedDataParallelPlugin.__dataclass_fields__, reason="needs accelerate 1.6"
)
def test_fsdp2_at_world_size_1_is_killed_resumes_and_keeps_its_curve():
    (line,) = gpu_parts.fsdp2("cpu")
    assert line["losses"] == pytest.approx(line["resumed"], abs=1e-4) and "error" not in line
    assert line["of_weights"] < 1e-4 and len(set(line["losses"])) == line["steps"] > line["killed_at"]


@pytest.mark.slow
def test_train_is_killed_and_resumes_exactly():
    (line,) = gpu_parts.kill_and_resume("cpu")
    assert line["largest_difference_of_losses"] == line["of_weights"] == 0 and not line["fsdp2"]


def test_the_kernels_times_have_their_bytes_and_floating_point_operations():
    rows = list(gpu_parts.kernel_times("cpu"))
    assert {row["backend"] for row in rows} == {"reference", "cpu"}
    leaves = scan_inputs(145, 768, 2, "cpu", torch.bfloat16)
    found = gpu_parts.traffic(leaves, "cpu")
    tokens, channels = 2 * 145, 4 * 768
    inputs = 2 * (2 * tokens * channels + 2 * tokens * 4 * 16) + 4 * (16 * channels + channels)
    y = 2 * tokens * channels
    assert found["forward_mb"] == round((inputs + y) / 1e6, 1)
    assert found["both_mb"] == round((3 * inputs + 2 * y) / 1e6, 1)
    assert found["forward_gflop"] == round(9 * tokens * channels * 16 / 1e9, 2)


def test_memory_that_ends_is_a_note():
    def task(row):
        row["first"] = 1
        raise torch.OutOfMemoryError

    assert gpu_parts.unless_memory_ends({}, task) == {"first": 1, "note": "out of memory"}


def test_recorded_lines_become_tables(tmp_path, capsys):
    assert main(["bench", "gpu", "--report", str(RECORDED)]) == 0
    text = capsys.readouterr().out
    lines = lines_of(RECORDED)
    assert all(f"{line['part']}\n\n| " in text for line in lines)
    step = next(line for line in lines if line["part"] == "training")
    header = "| preset | batch | checkpointing | loss_of_one | on_the_cpu | step_ms | text_tokens_a_second |"
    assert header in text and f"| tiny | 2 | True | {step['loss_of_one']} |" in text
    assert "training: assumed, validation and test: assumed" in text
    assert main(["bench", "gpu", "--report", str(tmp_path / "none")]) == 2


def test_measured_steps_and_reports_give_the_hours_of_full_runs(tmp_path, capsys):
    rows = [
        {"part": "training", "preset": "mimic-cxr", "batch": 18, "step_ms": 1800.0},
        {"part": "training", "preset": "mimic-cxr", "batch": 18, "note": "out of memory"},
        {"part": "training", "preset": "iu-xray", "batch": 20, "step_ms": 20.0},
        {"part": "generation", "preset": "mimic-cxr", "batch": 64, "tokens": 100, "batch_ms": 6400.0},
    ]
    file = tmp_path / "gpu.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["bench", "gpu", "--report", str(file)]) == 0
    # 270,790 studies × 6 epochs × 0.1 s; 12 validations of 2130 and 3858 test reports, 120 tokens at 1 ms
    hours = (270_790 * 6 * 0.1 + (12 * 2130 + 3858) * 0.12) / 3600
    text = capsys.readouterr().out
    cells = re.search(r"\| mimic-cxr \| (.* h) \|", text)[1].split("|")
    found = [float(cell.split()[0]) for cell in cells]
    assert found == pytest.approx([hours, hours / 4, hours / 8], rel=0.01)
    assert "training: measured, validation and test: measured" in text and "Assumed" not in text


def test_a_part_that_fails_or_hangs_ends_in_an_error_line(monkeypatch, tmp_path, capsys):
    assert list(gpu.run_part("nothing", "cpu", 100)) == [{"error": "KeyError: 'nothing'"}]
    assert list(gpu.run_part("training", "cpu", 0.01)) == [{"error": "the time limit"}]
    assert main(["bench", "gpu", "--device", "cpu", "--parts", "everything"]) == 2
    assert "choose from environment, gpu_tests, parity" in capsys.readouterr().err
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "gpu"]) == 2
    file = tmp_path / "gpu.jsonl"
    there = {"part": "environment", "device": "cuda", "hardware": {"gpu": "NVIDIA T4"}}
    file.write_text(json.dumps(there) + "\n")
    assert main(["bench", "gpu", "--device", "cpu", "--json", str(file)]) == 2
    assert "is of another machine" in capsys.readouterr().err and lines_of(file) == [there]


def test_ctrl_c_leaves_whole_lines_and_no_process(tmp_path):
    """The part's own child ends too; the next call begins the part again."""
    file = tmp_path / "gpu.jsonl"
    words = ["-m", "emrrg_lib", "bench", "gpu", "--device", "cpu", "--parts", "kill_and_resume", "--json"]
    child = subprocess.Popen([sys.executable, *words, str(file)], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if "done_minutes" in line:
            break
    family = []
    while len(family) < 2:
        family = psutil.Process(child.pid).children(recursive=True)
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    psutil.wait_procs(family, timeout=10)
    assert not any(process.is_running() and process.status() != "zombie" for process in family)
    assert {line["part"] for line in lines_of(file)} == {"environment"}
