"""Commands about models and the machine: generate, info, ledger, doctor."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from .parsing import add_command, add_run, add_system, chosen_system, run_folder


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    _add_generate(subparsers)
    for name, function, summary in (
            ("info", info, "print a system's map: part, paper section, shape, parameters, trained or not"),
            ("ledger", count, "count parameters exactly, beside the published counts and how they arise")):
        command = add_command(subparsers, name, function, summary, f"emrrg {name} --preset iu-xray",
                              f"emrrg {name} --preset mimic-cxr --encoder large --policy table5-3")
        add_system(command)
    add_command(subparsers, "doctor", doctor,
                "look at this machine: what is OK, what is missing, how to mend it", "emrrg doctor")


def _add_generate(subparsers) -> None:
    command = add_command(subparsers, "generate", generate, "write a report for X-ray files",
                          "emrrg generate --run runs/demo --images frontal.png lateral.png")
    add_run(command)
    command.add_argument("--images", type=Path, nargs="+", required=True, metavar="FILE",
                         help="the views of one study, frontal first")
    command.add_argument("--greedy", action="store_true", help="greedy decoding, no beam search")


def generate(options: Namespace) -> int:
    """Prints one report for the views of one study."""
    run = run_folder(options.run)
    from emrrg_lib.inference import generate_reports

    for report in generate_reports(run, options.images, options.greedy):
        print(report)
    return 0


def info(options: Namespace) -> int:
    """Prints a system's map."""
    from emrrg_lib.info import describe

    print(describe(chosen_system(options)))
    return 0


def count(options: Namespace) -> int:
    """Prints the parameter ledger."""
    from emrrg_lib.info import describe_ledger

    print(describe_ledger(chosen_system(options)))
    return 0


def doctor(options: Namespace) -> int:
    """Prints the doctor's list; exit code 1 when the CPU path cannot run."""
    from emrrg_lib.doctor import check, healthy, report

    checks = check()
    print(report(checks))
    return 0 if healthy(checks) else 1
