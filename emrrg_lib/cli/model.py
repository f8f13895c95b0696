"""Commands about models and the machine: generate, export, info, ledger, doctor."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import add_command, add_run, add_system, chosen_system, run_folder
from emrrg_lib.files import InputError


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    _add_generate(subparsers)
    exporting = add_command(
        subparsers,
        "export",
        export,
        "write a run's encoder, Partial LoRA merged in, as one plain file",
        "emrrg export --run runs/demo --out encoder.safetensors",
    )
    add_run(exporting)
    exporting.add_argument("--out", type=Path, required=True, metavar="FILE", help=".safetensors or .pth")
    for name, function, summary in (
        ("info", info, "print a system's map: part, paper section, shape, parameters, trained or not"),
        ("ledger", count, "count parameters exactly, beside the published counts and how they arise"),
    ):
        command = add_command(
            subparsers,
            name,
            function,
            summary,
            f"emrrg {name} --preset iu-xray",
            f"emrrg {name} --preset mimic-cxr --encoder large --policy table5-3",
        )
        add_system(command)
    command.add_argument(
        "--costs",
        action="store_true",
        help="instead: what a full run of a paper preset costs, FLOPs and GPU hours",
    )
    add_command(
        subparsers,
        "doctor",
        doctor,
        "look at this machine: what is OK, what is missing, how to mend it",
        "emrrg doctor",
    )


def _add_generate(subparsers) -> None:
    command = add_command(
        subparsers,
        "generate",
        generate,
        "write a report for X-ray files, or for every study of a split",
        "emrrg generate --run runs/demo --images frontal.png lateral.png",
        "emrrg generate --run runs/demo --data phantom --split test --out runs/demo_on_phantom",
    )
    add_run(command)
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--images", type=Path, nargs="+", metavar="FILE", help="the views of one study, frontal first"
    )
    what.add_argument("--data", type=Path, metavar="DIR", help="data folder, in any layout the kit reads")
    command.add_argument(
        "--split",
        choices=["train", "val", "test"],
        default="test",
        help="with --data: which studies (default: test)",
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="with --data: folder for predictions.jsonl")
    command.set_defaults(writes="out")
    command.add_argument("--greedy", action="store_true", help="greedy decoding, no beam search")


def generate(options: Namespace) -> int:
    """Prints one report for the views of one study, or writes those of a split."""
    run = run_folder(options.run)
    if options.data and not options.out:
        raise InputError("say where to write the reports of the split: --out DIR")
    from emrrg_lib.run.inference import generate_for_files, generate_split

    if options.data:
        print("Wrote", generate_split(run, options.data, options.split, options.out, options.greedy))
        return 0
    for report in generate_for_files(run, options.images, options.greedy):
        print(report)
    return 0


def export(options: Namespace) -> int:
    """Writes a run's encoder."""
    from emrrg_lib.run.inference import export_encoder

    print(f"Wrote {export_encoder(run_folder(options.run), options.out)}")
    return 0


def info(options: Namespace) -> int:
    """Prints a system's map."""
    from emrrg_lib.run.costs import describe

    print(describe(chosen_system(options)))
    return 0


def count(options: Namespace) -> int:
    """Prints the parameter ledger, or the costs of a full run."""
    from emrrg_lib.run.costs import describe_costs, describe_ledger

    print((describe_costs if options.costs else describe_ledger)(chosen_system(options)))
    return 0


def doctor(options: Namespace) -> int:
    """Prints the doctor's list; exit code 1 when the CPU path cannot run."""
    from emrrg_lib.run.doctor import check, healthy, report

    checks = check()
    print(report(checks))
    return 0 if healthy(checks) else 1
