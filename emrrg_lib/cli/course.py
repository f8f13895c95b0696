"""Commands about the course: `course build`, `grade`, `progress`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from emrrg_lib.cli.parsing import add_command, add_group, add_path


def register(subparsers) -> None:
    """Adds the parsers of this group."""
    kinds = add_group(
        subparsers,
        "course",
        "Make the notebooks of a class, grade them, count right answers.",
        "emrrg course build --out class",
        "emrrg course grade handed_in",
    )
    command = add_command(kinds, "build", build, writes="out")
    command.add_argument(
        "--variant",
        default="student",
        metavar="NAME",
        help="student: hints but no solutions; solved: every stub holds its solution (default: %(default)s)",
    )
    add_path(command, "--out", "folder (default: course/VARIANT)")
    command.add_argument("--execute", action="store_true", help="also run them and store the outputs")
    command = add_command(kinds, "grade", grade, writes="out")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="handed-in files, one folder a student")
    add_path(command, "--out", "folder for grades.csv and grades.html (default: FOLDER)")
    for name, unit in (("--minutes", "minutes"), ("--memory", "GB of memory")):
        default = 10.0 if name == "--minutes" else 4.0
        command.add_argument(
            name,
            type=float,
            default=default,
            metavar="N",
            help=f"{unit} that one notebook may take (default: %(default)g)",
        )
    command = add_command(kinds, "progress", progress)
    command.add_argument("folder", type=Path, nargs="?", default=Path("notebooks"), metavar="FOLDER")


def build(options: Namespace) -> int:
    """Write all notebooks without solutions, or with the solutions filled in.

    The folder holds everything that the notebooks link to; a class opens it with `make lab FOLDER=class`.

    emrrg course build --out class
    emrrg course build --variant solved --execute --out solved
    """
    from emrrg_lib.course.build import build as write

    out = options.out or Path("course") / options.variant
    for path in write(options.variant, out, options.execute):
        print(f"wrote {path}")
    return 0


def grade(options: Namespace) -> int:
    """Run the checks of handed-in notebooks, each in its own process, and write a table and a page.

    Handed-in code runs with your rights: grade the work of strangers in a container.

    emrrg course grade handed_in --out grades
    """
    from emrrg_lib.course.grade import grade as run

    page = run(options.folder, options.out or options.folder, options.minutes, options.memory)
    print(f"wrote {page.with_suffix('.csv')} and {page}")
    return 0


def progress(options: Namespace) -> int:
    """Count the right answers in the saved notebooks of a folder (default: notebooks).

    emrrg course progress notebooks
    """
    from emrrg_lib.course.grade import progress as count

    print(count(options.folder))
    return 0
