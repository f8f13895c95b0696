"""`emrrg evaluate`: scores of runs, and the tables and pages made of them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import add_command, add_out, add_path, add_run, add_seed, choices, run_folder
from emrrg_lib.config import DataConfig
from emrrg_lib.files import InputError


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    command = add_command(
        subparsers,
        "evaluate",
        evaluate,
        "emrrg evaluate --run runs/demo",
        "emrrg evaluate table --run runs/demo",
        "emrrg evaluate page --run runs/demo --against runs/other",
        writes="run",
    )
    add_run(command, required=False)
    command.add_argument(
        "--references",
        choices=choices(DataConfig, "references"),
        help="score against whole references or, as EMRRG's released code does, against "
        "those cut to max_length tokens (default: the run's configuration)",
    )
    _add_labeler(command)
    kinds = command.add_subparsers(title="commands", metavar="COMMAND")
    _add_table(kinds)
    command = add_command(
        kinds,
        "page",
        page,
        "emrrg evaluate page --run runs/demo",
        "emrrg evaluate page --run runs/a --against runs/b",
        writes="run",
    )
    add_run(command)
    add_path(command, "--against", "a second run on the same studies, shown beside the first")
    command = add_command(kinds, "compare", compare, "emrrg evaluate compare runs/a runs/b")
    command.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="run folder or predictions.jsonl")
    _add_labeler(command)
    _add_controls(kinds)


def _add_table(kinds) -> None:
    command = add_command(
        kinds,
        "table",
        table,
        "emrrg evaluate table --run runs/iu",
        "emrrg evaluate table --run runs/iu --with cxpmrg_table3",
    )
    add_run(command)
    command.add_argument(
        "--with",
        dest="tables",
        nargs="+",
        metavar="NAME",
        help="tables of data/published (default: the paper's tables of the run's data set)",
    )
    command.add_argument(
        "--format",
        choices=["text", "markdown", "csv"],
        default="text",
        help="how to print it (default: %(default)s)",
    )


def _add_controls(kinds) -> None:
    command = add_command(
        kinds,
        "controls",
        controls,
        "emrrg evaluate controls --data data/iu_xray/annotation.json --out runs/iu_controls",
    )
    add_path(command, "--data", "data folder or annotation; images are not needed", "PATH", required=True)
    command.add_argument(
        "--cleaning",
        choices=choices(DataConfig, "cleaning"),
        default="iu_xray",
        help="rule for the reports (default: %(default)s)",
    )
    add_out(command, "runs/controls", "folder to write metrics.json into")
    add_seed(command)


def evaluate(options: Namespace) -> int:
    """Score a run's predictions.jsonl into metrics.json."""
    if options.run is None:
        raise InputError("say which run to score: `emrrg evaluate --run runs/demo`")
    run = run_folder(options.run)
    from emrrg_lib.run.demo import score_run

    page = score_run(run, options.references, LABELERS[options.labeler](options, run))
    print(f"Wrote {run / 'metrics.json'}; open {page}")
    return 0


def table(options: Namespace) -> int:
    """Print a run's scores beside the published ones of its data set."""
    from emrrg_lib.evaluation.published import score_table

    print(score_table(run_folder(options.run), options.tables).render(options.format))
    return 0


def page(options: Namespace) -> int:
    """Draw a run's report.html, alone or against another run."""
    run = run_folder(options.run)
    against = options.against and run_folder(options.against)
    from emrrg_lib.interpret.page import write_run_page
    from emrrg_lib.run.explore import write_example_pages

    write_example_pages(run)
    print(f"Open {write_run_page(run, against)}")
    return 0


def compare(options: Namespace) -> int:
    """Say in which scores two runs really differ on the same studies."""
    from emrrg_lib.evaluation.score import compare_runs

    first, second = options.runs
    labeler = LABELERS[options.labeler](options, first)
    studies, differences = compare_runs(first, second, labeler)
    print(
        f"{first} minus {second}: {studies} studies, 95 % intervals of 1,000 resamples of them, "
        f"labels {labeler.name}\n"
    )
    for d in differences:
        verdict = "real" if d.real else "may be chance"
        print(f"{d.metric:30}{d.value:+8.4f}   {d.low:+.4f} to {d.high:+.4f}   {verdict}")
    print("\nreal: the interval excludes 0. Of twenty metrics that do not differ, about one will seem to.")
    return 0


def controls(options: Namespace) -> int:
    """Score the controls that need no image on any data set."""
    from emrrg_lib.evaluation.published import score_table
    from emrrg_lib.evaluation.score import evaluate_controls

    path = evaluate_controls(options.data, options.out, options.cleaning, seed=options.seed)
    print(score_table(options.out).render(), f"\n\nWrote {path}")
    return 0


def _add_labeler(command) -> None:
    command.add_argument(
        "--labeler",
        choices=list(LABELERS),
        default="rules",
        help="who reads the 14 observations (default: %(default)s)",
    )
    add_path(command, "--weights", "chexbert: its chexbert.pth", "FILE")
    add_path(command, "--bert", "chexbert: a folder of bert-base-uncased")
    text = "csv: labels made elsewhere, by text, or of the references and of the reports"
    add_path(command, "--labels", text, "FILE", nargs="+")


def _rules(options: Namespace, run: Path):
    from emrrg_lib.evaluation.other_labelers import RULES

    return RULES


def _chexbert(options: Namespace, run: Path):
    from emrrg_lib.evaluation.other_labelers import chexbert

    if not (options.weights and options.bert):
        raise InputError(
            "--labeler chexbert needs --weights chexbert.pth and --bert, a folder of bert-base-uncased"
        )
    return chexbert(options.weights, options.bert)


def _csv(options: Namespace, run: Path):
    from emrrg_lib.evaluation.other_labelers import from_csv
    from emrrg_lib.run_folder import read_predictions

    if not options.labels:
        raise InputError("--labeler csv needs --labels with one or two CSV files")
    return from_csv(options.labels, [row["id"] for row in read_predictions(run)])


LABELERS = {"rules": _rules, "chexbert": _chexbert, "csv": _csv}
