"""`emrrg evaluate`: scores of runs, and the tables and pages made of them."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import add_command, add_out, add_path, add_run, add_seed, choices, run_folder
from emrrg_lib.config import DataConfig
from emrrg_lib.data.report_files import FORMATS
from emrrg_lib.data.study import SPLITS
from emrrg_lib.files import InputError


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    command = add_command(
        subparsers,
        "evaluate",
        evaluate,
        more="forms of --predictions:\n" + "\n".join(f"  {name}: {example}" for name, example in FORMATS),
        writes="out run",
    )
    add_run(command, required=False)
    _add_predictions(command)
    command.add_argument(
        "--references",
        choices=choices(DataConfig, "references"),
        help="score against whole references or, as EMRRG's released code does, against "
        "those cut to max_length tokens (default: the run's configuration)",
    )
    _add_labeler(command)
    text = (
        "learned metrics: radeval:radgraph,ratescore,… (pip install radeval), bertscore:FOLDER of a model, "
    )
    text += "semb (with --weights and --bert), recorded:FILE of values made elsewhere"
    command.add_argument("--metrics", nargs="+", metavar="SOURCE", help=text)
    kinds = command.add_subparsers(title="commands", metavar="COMMAND")
    _add_table(kinds)
    command = add_command(kinds, "page", page, writes="run")
    add_run(command)
    add_path(
        command, "--against", "other runs on the same studies, shown beside the first", nargs="+", default=[]
    )
    command.add_argument(
        "--figures",
        choices=["svg", "pdf"],
        help="write the page's figures and its studies into RUN/figures too",
    )
    _add_compare(kinds)
    _add_controls(kinds)


def _add_predictions(command) -> None:
    add_path(command, "--predictions", "reports of any system, in one of the forms below", "FILE")
    add_path(command, "--data", "data set whose studies they describe; images are not needed", "PATH")
    command.add_argument("--name", help="the system's name in tables (default: the file's name)")
    add_path(command, "--out", "folder to write (default: runs/NAME)")
    command.add_argument(
        "--split", choices=SPLITS, default="test", help="whose studies (default: %(default)s)"
    )
    command.add_argument(
        "--own-references",
        nargs="?",
        type=Path,
        const=True,
        metavar="FILE",
        help="take the references of the file itself, or of a second one, not those of the data",
    )
    _add_cleaning(command)
    command.add_argument(
        "--clean-reports", action="store_true", help="clean the reports by the same rule as the references"
    )
    add_seed(command)


def _add_cleaning(command) -> None:
    rules = choices(DataConfig, "cleaning")
    command.add_argument(
        "--cleaning", choices=rules, help="rule for the references (default: the data set's)"
    )


def _add_table(kinds) -> None:
    command = add_command(kinds, "table", table)
    add_path(
        command,
        "--run",
        "run folders: all rows of the first, one row of each other",
        required=True,
        nargs="+",
    )
    command.add_argument(
        "--seeds", action="store_true", help="the runs are seeds of one system: print mean ± sd"
    )
    command.add_argument(
        "--with",
        dest="tables",
        nargs="+",
        metavar="NAME",
        help="tables of data/published (default: the paper's tables of the run's data set)",
    )
    _add_format(command)


def _add_format(command) -> None:
    styles = ["text", "json", "csv", "latex", "markdown"]
    command.add_argument(
        "--format", choices=styles, default="text", help="how to print it (default: %(default)s)"
    )


def _add_compare(kinds) -> None:
    command = add_command(kinds, "compare", compare)
    text = "run folder or predictions.jsonl; RUN:NAME is another system of that run, such as a control"
    command.add_argument("systems", nargs="+", metavar="RUN", help=text)
    command.add_argument("--all", action="store_true", help="all metrics, not only the main ones")
    _add_format(command)
    _add_labeler(command)


def _add_controls(kinds) -> None:
    command = add_command(kinds, "controls", controls)
    add_path(command, "--data", "data folder or annotation; images are not needed", "PATH", required=True)
    _add_cleaning(command)
    add_out(command, "runs/controls", "folder to write their reports and scores into")
    add_seed(command)


def evaluate(options: Namespace) -> int:
    """Score a run's predictions.jsonl, or the reports of any other system.

    emrrg evaluate --run runs/demo
    emrrg evaluate --predictions result.json --data iu_xray --name "R2GenGPT" --out runs/r2gengpt
    emrrg evaluate table --run runs/demo
    emrrg evaluate page --run runs/demo --against runs/other
    """
    run = run_folder(options.run) if options.run else None
    if (run is None) == (options.predictions is None):
        raise InputError(
            "say what to score: `emrrg evaluate --run runs/demo`, or, for the reports of another system, "
            "`emrrg evaluate --predictions FILE --data DATA`"
        )
    if run:
        return _score(options, run, run)
    from emrrg_lib.evaluation.foreign import write_foreign, written_whole

    file = options.predictions
    short = file.resolve().parent.name if file.stem == "predictions" else file.name.split(".")[0]
    name = " ".join((options.name or short).split())
    out = options.out or Path("runs", re.sub(r"[^\w.-]+", "_", name).strip("._") or "reports")
    own, rule = options.own_references, options.cleaning
    with written_whole(out, file) as folder:
        write_foreign(
            file, folder, options.data, name, options.split, own, rule, options.clean_reports, options.seed
        )
        return _score(options, folder, out)


def _score(options: Namespace, folder: Path, out: Path) -> int:
    """Scores the reports in `folder`, whose files are or will be in `out`."""
    from emrrg_lib.run.demo import score_run

    labeler = _labeler(options, folder)
    page = score_run(folder, options.references, labeler, _sources(options, folder))
    print(f"Wrote {out / 'metrics.json'}; open {out / page.name}")
    return 0


def _sources(options: Namespace, run: Path) -> list:
    """The learned metrics that `--metrics` names."""
    if not options.metrics:
        return []
    from emrrg_lib.evaluation.learned import source_named
    from emrrg_lib.run_folder import read_predictions

    ids = [row["id"] for row in read_predictions(run)]
    found = [source_named(word, ids, options.weights, options.bert) for word in options.metrics]
    return [source for group in found for source in group]


def table(options: Namespace) -> int:
    """Print the scores of one or more runs beside the published ones of their data set.

    emrrg evaluate table --run runs/iu
    emrrg evaluate table --run runs/iu --with cxpmrg_table3
    emrrg evaluate table --run runs/seed0 runs/seed1 runs/seed2 --seeds
    """
    from emrrg_lib.evaluation.published import score_table

    run, *others = map(run_folder, options.run)
    print(score_table(run, options.tables, others, options.seeds).render(options.format))
    return 0


def page(options: Namespace) -> int:
    """Draw a run's report.html, alone or against other runs.

    emrrg evaluate page --run runs/demo
    emrrg evaluate page --run runs/a --against runs/b runs/c --figures pdf
    """
    run, against = run_folder(options.run), [run_folder(other) for other in options.against]
    from emrrg_lib.interpret.page import write_run_page
    from emrrg_lib.run.explore import write_example_pages

    write_example_pages(run)
    print(f"Open {write_run_page(run, against, options.figures)}")
    return 0


def compare(options: Namespace) -> int:
    """Say in which scores systems really differ on the same studies.

    emrrg evaluate compare runs/a runs/b runs/c
    emrrg evaluate compare runs/a "runs/a:constant report" --format latex
    """
    from emrrg_lib.evaluation.compare import compare_systems

    labeler = _labeler(options, Path(options.systems[0]))
    print(compare_systems(options.systems, labeler, options.all).render(options.format))
    return 0


def controls(options: Namespace) -> int:
    """Write and score the controls that need no image on any data set.

    emrrg evaluate controls --data data/iu_xray/annotation.json --out runs/iu_controls
    """
    from emrrg_lib.evaluation.foreign import write_controls, written_whole
    from emrrg_lib.evaluation.published import score_table
    from emrrg_lib.evaluation.score import evaluate_run

    with written_whole(options.out, options.data) as folder:
        write_controls(options.data, folder, options.cleaning, options.seed)
        evaluate_run(folder)
    print(score_table(options.out).render(), f"\n\nWrote {options.out / 'metrics.json'}")
    return 0


def _add_labeler(command) -> None:
    command.add_argument(
        "--labeler",
        choices=["rules", "chexbert", "csv"],
        default="rules",
        help="who reads the 14 observations (default: %(default)s)",
    )
    add_path(command, "--weights", "chexbert: its chexbert.pth", "FILE")
    add_path(command, "--bert", "chexbert: a folder of bert-base-uncased")
    text = "csv: labels made elsewhere, by text, or of the references and of the reports"
    add_path(command, "--labels", text, "FILE", nargs="+")


def _labeler(options: Namespace, run: Path):
    """The labeler that the options choose."""
    from emrrg_lib.evaluation.other_labelers import RULES, chexbert, from_csv
    from emrrg_lib.run_folder import read_predictions

    if options.labeler == "chexbert":
        if not (options.weights and options.bert):
            raise InputError(
                "--labeler chexbert needs --weights chexbert.pth and --bert, a folder of bert-base-uncased"
            )
        return chexbert(options.weights, options.bert)
    if options.labeler == "csv":
        if not options.labels:
            raise InputError("--labeler csv needs --labels with one or two CSV files")
        return from_csv(options.labels, [row["id"] for row in read_predictions(run)])
    return RULES
