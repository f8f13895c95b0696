"""`emrrg course`: the notebooks for students and for teachers."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import add_command, add_group
from emrrg_lib.files import InputError


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    kinds = add_group(
        subparsers,
        "course",
        "make the course's notebooks for a class",
        "emrrg course build --variant student",
    )
    building = add_command(
        kinds,
        "build",
        build,
        "write all notebooks without solutions, or with the solutions filled in",
        "emrrg course build --variant student",
        "emrrg course build --variant solved --execute --out solved",
    )
    building.add_argument(
        "--variant",
        choices=["student", "solved"],
        required=True,
        help="student: hints but no solutions; solved: every stub holds its solution",
    )
    building.add_argument("--out", type=Path, metavar="DIR", help="folder (default: course/VARIANT)")
    building.add_argument("--execute", action="store_true", help="also run them and store the outputs")
    building.set_defaults(writes="out")


def build(options: Namespace) -> int:
    """Builds one variant of every notebook."""
    try:
        from emrrg_lib.course.build import build as build_variant
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed; the notebooks are built with it: "
            "pip install 'emrrg-kit[dev]', or make test once"
        ) from error
    out = options.out or Path("course") / options.variant
    for path in build_variant(options.variant, out, options.execute):
        print(f"wrote {path}")
    return 0
