"""Commands on models and the machine: generate, explore, export, info, ledger, doctor, bench."""

from __future__ import annotations

import json
import time
from argparse import Namespace

from emrrg_lib.bench import KINDS, measure
from emrrg_lib.cli.parsing import (
    add_command,
    add_group,
    add_number,
    add_path,
    add_run,
    add_system,
    chosen_system,
    run_folder,
)
from emrrg_lib.data.study import SPLITS
from emrrg_lib.files import InputError


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    _add_generate(subparsers)
    _add_explore(subparsers)
    command = add_command(subparsers, "export", export, writes="out")
    add_run(command)
    forms = command.add_mutually_exclusive_group(required=True)
    add_path(forms, "--out", "the encoder: .safetensors or .pth", "FILE")
    add_path(forms, "--hub-folder", "trained tensors, configuration and card; nothing is uploaded")
    for name, function in (("info", info), ("ledger", ledger)):
        command = add_command(subparsers, name, function)
        add_system(command)
    command.add_argument(
        "--costs",
        action="store_true",
        help="instead: what a full run of a paper preset costs, FLOPs and GPU hours",
    )
    add_command(subparsers, "doctor", doctor)
    _add_bench(subparsers)


def _add_generate(subparsers) -> None:
    command = add_command(subparsers, "generate", generate, writes="out")
    add_run(command)
    studies = command.add_mutually_exclusive_group(required=True)
    add_path(
        studies,
        "--images",
        "the views of one study, frontal first; or a folder: each image",
        nargs="+",
    )
    add_path(studies, "--data", "data folder, in any layout the kit reads")
    command.add_argument(
        "--split", choices=SPLITS, default="test", help="with --data: which studies (default: test)"
    )
    add_path(command, "--out", "with --data or a folder of images: folder for predictions.jsonl")
    command.add_argument("--greedy", action="store_true", help="greedy decoding, no beam search")


def generate(options: Namespace) -> int:
    """Write a report for X-ray files, for each image of a folder, or for every study of a split.

    emrrg generate --run runs/demo --images frontal.png lateral.png
    emrrg generate --run data/tiny/run --images data/nih_samples/00001323_001.jpg
    emrrg generate --run runs/demo --data phantom --split test --out runs/demo_on_phantom
    emrrg generate --run runs/demo --images pictures --out runs/demo_on_pictures
    """
    run, folders = run_folder(options.run), [path for path in options.images or () if path.is_dir()]
    if (options.data or folders) and not options.out:
        raise InputError("say where to write the reports: --out DIR")
    if folders and len(options.images) > 1:
        raise InputError(f"name the views of one study, or one folder: {folders[0]} is a folder")
    from emrrg_lib.run.inference import generate_folder, generate_for_files, generate_split

    if folders:
        print("Wrote", generate_folder(run, folders[0], options.out, options.greedy))
        return 0
    if options.data:
        print("Wrote", generate_split(run, options.data, options.split, options.out, options.greedy))
        return 0
    for report in generate_for_files(run, options.images, options.greedy):
        print(report)
    return 0


def _add_explore(subparsers) -> None:
    command = add_command(subparsers, "explore", explore)
    add_run(command)
    studies = command.add_mutually_exclusive_group(required=True)
    studies.add_argument("--study", metavar="N", help="number in the test split, from 1, or a study's id")
    add_path(studies, "--images", "instead the views of one study, frontal first", "FILE", nargs="+")
    add_path(command, "--out", "the page (default: a file in the folder explorers of the run)", "FILE")


def explore(options: Namespace) -> int:
    """Write a page that shows what a run's model does with one study: words, gates, scans, Partial LoRA.

    The page needs no network and no Python.

    emrrg explore --run runs/demo --study 3
    emrrg explore --run runs/demo --images frontal.png lateral.png --out page.html
    """
    run = run_folder(options.run)
    from emrrg_lib.run.explore import write_explorers

    print(f"Open {write_explorers(run, options.study, options.images or (), options.out)}")
    return 0


def export(options: Namespace) -> int:
    """Write a run's encoder, Partial LoRA merged in, as one plain file; or a folder for a model hub.

    emrrg export --run runs/demo --out encoder.safetensors
    emrrg export --run runs/demo --hub-folder upload
    """
    from emrrg_lib.run.inference import export_encoder, export_hub_folder

    if options.hub_folder:
        print(f"Wrote {export_hub_folder(run_folder(options.run), options.hub_folder)}; nothing is uploaded")
        return 0
    print(f"Wrote {export_encoder(run_folder(options.run), options.out)}")
    return 0


def info(options: Namespace) -> int:
    """Print a system's map: part, paper section, shape, parameters, trained or not.

    emrrg info --preset iu-xray
    emrrg info --preset mimic-cxr --encoder large --policy table5-3
    """
    from emrrg_lib.run.costs import describe_map

    print(describe_map(chosen_system(options)))
    return 0


def ledger(options: Namespace) -> int:
    """Count parameters exactly, beside the published counts and how they arise.

    emrrg ledger --preset iu-xray
    emrrg ledger --preset mimic-cxr --encoder large --policy table5-3
    """
    from emrrg_lib.run.costs import describe_costs, describe_ledger

    print((describe_costs if options.costs else describe_ledger)(chosen_system(options)))
    return 0


def doctor(options: Namespace) -> int:
    """Look at this machine: print the parts that work, the missing ones, and how to mend them.

    The exit code is 1 when the CPU path cannot run.

    emrrg doctor
    """
    from emrrg_lib.run.doctor import check_machine, healthy, report

    checks = check_machine()
    print(report(checks))
    return 0 if healthy(checks) else 1


def _add_bench(subparsers) -> None:
    kinds = add_group(
        subparsers,
        "bench",
        "Measure how fast the parts run on this machine, as ratios.",
        "emrrg bench scan",
        "emrrg bench encoder --json encoder.json",
    )
    for kind, (_, summary) in KINDS.items():
        command = add_command(kinds, kind, bench, f"{summary}\n\nemrrg bench {kind} --quick")
        command.add_argument("--quick", action="store_true", help="small sizes: only to see that it runs")
        add_path(command, "--json", "also write the figures here", "FILE")
        add_number(command, "--threads", "CPU threads", 2, high=1024)
        command.set_defaults(kind=kind)
    _add_bench_gpu(kinds)


def _add_bench_gpu(kinds) -> None:
    command = add_command(kinds, "gpu", bench_gpu)
    add_number(command, "--minutes", "the most minutes of all parts", 40, high=1440)
    command.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny sizes")
    command.add_argument("--parts", metavar="A,B", default="", help="only these (an unknown one lists all)")
    add_path(command, "--json", "write each line here as it comes; parts that have ended are kept", "FILE")
    add_path(command, "--report", "measure nothing: print the lines of this file as tables", "FILE")


def bench_gpu(options: Namespace) -> int:
    """Parity, kernel times, training steps and reports on a GPU, as JSON lines.

    emrrg bench gpu --json gpu.jsonl
    emrrg bench gpu --report gpu.jsonl
    """
    from emrrg_lib.bench.gpu import measure, report

    if options.report:
        print(report(options.report))
        return 0
    failed = False
    parts = [name for name in options.parts.split(",") if name]
    for line in measure(options.minutes, options.device, options.json, parts):
        print(json.dumps(line), flush=True)
        failed |= "error" in line
    return int(failed)


def bench(options: Namespace) -> int:
    """Run one benchmark and print its figures with hardware and versions."""
    import torch

    from emrrg_lib.files import write_json
    from emrrg_lib.run_record import run_record

    torch.set_num_threads(options.threads)
    started = time.time()
    figures = measure(options.kind, options.quick)
    record = run_record(f"bench {options.kind}", started, quick=options.quick, figures=figures)
    print(json.dumps(record, indent=1))
    if options.json:
        print(f"Wrote {write_json(options.json, record)}")
    return 0
