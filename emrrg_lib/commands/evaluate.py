"""`emrrg evaluate`: scores of runs."""

from __future__ import annotations

from argparse import Namespace

from .parsing import add_command, add_run, run_folder


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    command = add_command(
        subparsers, "evaluate", evaluate, "score a run's predictions.jsonl into metrics.json",
        "emrrg evaluate --run runs/demo")
    add_run(command)
    command.set_defaults(writes="run")


def evaluate(options: Namespace) -> int:
    """Scores a run's predictions."""
    run = run_folder(options.run)
    from emrrg_lib.demo import score_run

    print(f"Wrote {run / 'metrics.json'}; open {score_run(run)}")
    return 0
