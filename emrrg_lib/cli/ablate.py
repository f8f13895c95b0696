"""`emrrg ablate`: the rows of an ablation table, trained and scored."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import add_command, at_least
from emrrg_lib.files import InputError

NAMES = "table5, table6, cxpmrg-table4, cxpmrg-table5, llm-swap, hybrid-layers, rank, gate, visual-in-prompt"


def register(subparsers) -> None:
    """Adds the parser of this group."""
    command = add_command(
        subparsers,
        "ablate",
        ablate,
        "train and score the rows of an ablation table, row by row",
        "emrrg ablate table5 --seeds 3",
        "emrrg ablate gate --rows static none --set train.warm_steps=400",
        "emrrg ablate cxpmrg-table4 --data phantom --set stage1.steps=500 stage2.steps=800",
    )
    command.add_argument("name", metavar="NAME", help=f"a table of data/ablations: {NAMES}")
    command.add_argument("--preset", default="tiny", help="preset of config.py (default: tiny)")
    command.add_argument(
        "--seeds", type=at_least(1), default=1, metavar="N", help="trainings of each row (default: 1)"
    )
    command.add_argument(
        "--data", type=Path, metavar="DIR", help="data folder (default: phantom studies drawn to OUT/data)"
    )
    command.add_argument(
        "--studies",
        type=at_least(20),
        default=2000,
        metavar="N",
        help="without --data: how many studies to draw (default: 2000)",
    )
    command.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only these rows")
    command.add_argument(
        "--set",
        dest="values",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of every row; stage1.KEY and stage2.KEY are those of pre-training",
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="folder (default: runs/ablations/NAME)")
    command.set_defaults(writes="out")


def ablate(options: Namespace) -> int:
    """Runs what is not done yet; the same command goes on after a stop. 1 if a row was left out."""
    from emrrg_lib.config import preset
    from emrrg_lib.training.ablation import run_ablation
    from emrrg_lib.training.ablation_rows import check_values, read_rows

    config, out = preset(options.preset), options.out or Path("runs/ablations") / options.name
    check_values(config, read_rows(options.name, options.rows), options.values)  # before anything is drawn
    data = options.data or _phantom(out / "data", options.studies, config)
    table, refused = run_ablation(
        options.name, config, data, out, options.seeds, options.values, options.rows
    )
    print(f"Wrote {table} and {table.with_name('figure.png')}")
    for row, reason in refused.items():
        print(f"left out: {row}: {reason}")
    return 1 if refused else 0


def _phantom(data: Path, studies: int, config) -> Path:
    """Draws PhantomCXR once, split as the demo's."""
    from emrrg_lib.phantom import write_phantom
    from emrrg_lib.run.demo import split_shares

    if config.encoder.patch_size == 16:
        raise InputError(f"preset '{config.preset}' is made for real images: name a data folder by --data")
    if not (data / "annotation.json").is_file():
        write_phantom(data, studies, 0, size=config.encoder.image_size, splits=split_shares(studies))
    return data
