"""Runs the checks of handed-in notebooks, and counts the right answers of saved ones.

A handed-in notebook is never trusted to grade itself: the course's own notebook is run, with the cells that
the student wrote in their places. Its check cells are the originals, the checks are imported anew before
each, and a verdict counts only if it comes through a channel whose name is drawn for this run.
The code runs with the rights of whoever grades, so grade the work of strangers in a container.
"""

from __future__ import annotations

import csv
import io
import re
import secrets
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from emrrg_lib.course.build import checks, kernel_environment, read_twin, twins, without
from emrrg_lib.course.notebook import Table
from emrrg_lib.files import InputError, write_text
from emrrg_lib.interpret.page_example import render

MINUTES, GIGABYTES = 10.0, 4.0  # that one notebook may take
CELL_SECONDS = 120  # then a cell is interrupted, and the next one runs
LEAST_SHARED = 3  # cells that make a file a notebook of the course
_CHECK = re.compile(r"\s*# Check (\d+)\b")
_ANSWER = re.compile(r"^check_\d+\((\w+)", re.MULTILINE)  # what a check cell hands over first
_TOUCHES = re.compile(r"course\.checks|builtins|sys\.modules|importlib|\.verdict\b|_getframe|\bpatch\(")
_FRESH = """
import sys
for name in [name for name in sys.modules if name.startswith("emrrg_lib.course.checks")]:
    del sys.modules[name]
import emrrg_lib.course.checks
from IPython.display import display
emrrg_lib.course.checks.print = lambda told: display({"%s": told}, raw=True)
"""


class Grade(NamedTuple):
    """One line of the table: `exercise` is "02/3", or "" for a file that could not be run at all.

    `verdict` begins with "right", "not yet", "not tried yet", "not run" or "no notebook"; `minutes` is the
    time that the whole notebook took; `note` tells the grader where to look.
    """

    student: str
    exercise: str
    verdict: str
    minutes: float
    note: str = ""


def grade(folder: Path, out: Path, minutes: float = MINUTES, gigabytes: float = GIGABYTES) -> Path:
    """Grades every file of a folder; writes `grades.csv` and `grades.html` into `out`, returns the page.

    A sub-folder holds the files of the student whose name it has; a file outside of them is a student of
    its own. Notebooks are recognised by their text, so they may have any name.

    Raises:
        InputError: the folder does not exist or holds no file.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name the one with the handed-in notebooks")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _aside(path, folder, out))
    if not files:
        raise InputError(
            f"{folder} holds no file: copy the handed-in notebooks into it, one folder a student"
        )
    originals = {twin.stem: read_twin(twin) for twin in twins()}
    grades: list[Grade] = []
    for path in tqdm(files, unit="file"):
        inside = path.relative_to(folder)
        student = inside.parts[0] if len(inside.parts) > 1 else inside.stem
        grades += _graded(student, path, originals, minutes, gigabytes)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerows([Grade._fields, *grades])
    write_text(out / "grades.csv", table.getvalue())
    return write_text(out / "grades.html", _page(grades, originals))


def _aside(path: Path, folder: Path, out: Path) -> bool:
    """Whether a file is not handed in: hidden, copied by `emrrg course build`, or written by `grade`."""
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith(".") or part in ("kit", "__pycache__") for part in parts)
    return hidden or path.resolve() in {(out / f"grades.{kind}").resolve() for kind in ("csv", "html")}


def _graded(
    student: str, path: Path, originals: dict[str, NotebookNode], minutes: float, gigabytes: float
) -> list[Grade]:
    try:
        handed = nbformat.read(path, as_version=4)
        sources = {cell.source.strip() for cell in handed.cells}
    except Exception as error:  # any file may be handed in; nbformat fails in many ways
        return [Grade(student, "", f"no notebook: {path.name} cannot be read ({type(error).__name__})", 0.0)]
    shared = {
        name: len(sources & {cell.source.strip() for cell in notebook.cells})
        for name, notebook in originals.items()
    }
    name = max(shared, key=lambda stem: shared[stem])
    if shared[name] < LEAST_SHARED:
        told = f"no notebook of the course: {path.name} has too little of any"
        return [Grade(student, "", told, 0.0)]
    notebook, channel = merged(handed, originals[name]), f"application/x-verdict-{secrets.token_hex(16)}"
    started = time.monotonic()
    end = run(notebook, channel, minutes, gigabytes)
    took = round((time.monotonic() - started) / 60, 2)
    own = "\n".join(cell.source for cell in notebook.cells if cell.metadata.get("own"))
    note = f"look at its code: {found[0]}" if (found := _TOUCHES.search(own)) else ""
    return [
        Grade(student, f"{name[:2]}/{number}", verdict, took, note)
        for number, verdict in verdicts(notebook, channel, end).items()
    ]


def merged(handed: NotebookNode, original: NotebookNode) -> NotebookNode:
    """The original's code cells with the student's own ones, each behind the original cell it followed.

    Changed or lost cells of the lesson are there again. In a stub the name of the answer gives way to an
    answer; what else it defines stays. A check cell is always the original.
    """
    numbers = checks(original)
    stubs = {at - 1: _ANSWER.findall(original.cells[at].source)[0] for at in numbers.values()}
    place_of = {cell.source.strip(): index for index, cell in enumerate(original.cells)}
    own: dict[int, list[str]] = defaultdict(list)
    place, seen = -1, set()
    for cell in (cell for cell in handed.cells if cell.cell_type == "code" and cell.source.strip()):
        source = cell.source.strip()
        check = _CHECK.match(source)
        known = numbers.get(int(check[1])) if check else place_of.get(source)
        if known is not None:
            place = known
            seen.add(known)
        elif not check:
            own[place].append(cell.source)
    made, last_check = [nbformat.v4.new_code_cell(source, metadata={"own": True}) for source in own[-1]], -1
    for index, cell in enumerate(original.cells):
        source = cell.source if cell.cell_type == "code" else ""
        if index in stubs and index not in seen:
            since = any(own[at] for at in range(last_check, index))  # behind the last check
            before = "\n".join(code for at in range(-1, index) for code in own[at])
            if since or re.search(rf"^(?:def |class )?{stubs[index]}\b", before, re.MULTILINE):
                source = without(source, {stubs[index]})
        if source.strip():
            check = _CHECK.match(source)
            made.append(nbformat.v4.new_code_cell(source, metadata={"check": int(check[1])} if check else {}))
            last_check = index if check else last_check
        made += [nbformat.v4.new_code_cell(source, metadata={"own": True}) for source in own[index]]
    return nbformat.v4.new_notebook(cells=made, metadata=original.metadata)


def run(notebook: NotebookNode, channel: str, minutes: float, gigabytes: float) -> str:
    """Executes a notebook in place in a process of its own; returns why it ended early, or ""."""
    for cell in notebook.cells:
        if "check" in cell.metadata:
            cell.source = _FRESH % channel + cell.source
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        watch = _Watch(minutes, gigabytes)
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            interrupt_on_timeout=True,
            allow_errors=True,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            on_notebook_start=lambda notebook: watch.begin(client.km.provisioner.pid),
        )
        try:
            client.execute(env=kernel_environment())
        except (DeadKernelError, CellExecutionError, RuntimeError) as error:
            return watch.reason or f"its code ended Python ({type(error).__name__})"
        finally:
            watch.over.set()
    return watch.reason


class _Watch:
    """Ends a process and its children once they take too long or too much memory; `reason` tells which."""

    def __init__(self, minutes: float, gigabytes: float) -> None:
        self.minutes, self.gigabytes, self.reason, self.over = minutes, gigabytes, "", threading.Event()

    def begin(self, pid: int) -> None:
        threading.Thread(target=self._look, args=(psutil.Process(pid),), daemon=True).start()

    def _look(self, process: psutil.Process) -> None:
        end = time.monotonic() + 60 * self.minutes
        while not self.over.wait(0.2):
            try:
                family = [process, *process.children(recursive=True)]
                used = sum(each.memory_info().rss for each in family)
                if used > 1e9 * self.gigabytes:
                    self.reason = f"its code took more than {self.gigabytes:g} GB of memory"
                elif time.monotonic() > end:
                    self.reason = f"its code took longer than {self.minutes:g} minutes"
                if self.reason:
                    for each in reversed(family):
                        each.kill()
                    return
            except psutil.NoSuchProcess:
                continue


def verdicts(notebook: NotebookNode, channel: str, end: str) -> dict[int, str]:
    """Exercise number → verdict of an executed notebook; `end` tells why it ended early."""
    found, error = {}, ""
    for cell in notebook.cells:
        outputs = cell.outputs
        failed = [f"{each.ename}: {each.evalue}" for each in outputs if each.output_type == "error"]
        if "check" not in cell.metadata:
            error = failed[0] if cell.metadata.get("own") and failed else error
            continue
        number = cell.metadata["check"]
        told = [output.data[channel] for output in outputs if channel in output.get("data", {})]
        if told:
            found[number] = told[-1].removeprefix(f"Exercise {number}: ")
        elif failed or error:
            raised = error or failed[0]
            stopped = raised.startswith("KeyboardInterrupt")
            told = f"was stopped after {CELL_SECONDS} seconds" if stopped else f"raised {raised}"
            found[number] = f"not yet. Its code {told}"
        else:
            found[number] = f"not run: {end or 'the check gave no verdict'}"
        error = ""
    return found


def _page(grades: Sequence[Grade], originals: dict[str, NotebookNode]) -> str:
    right = Counter(grade.student for grade in grades if grade.verdict.startswith("right"))
    by_student: dict[str, list[Grade]] = defaultdict(list)
    for each in grades:
        by_student[each.student].append(each)
    total = sum(len(checks(notebook)) for notebook in originals.values())
    here = Path(__file__).parent
    return render(
        "grades.html", here, here.parent / "interpret", students=by_student, right=right, total=total
    )


def progress(folder: str | Path = ".") -> Table:
    """How many exercises of the saved notebooks of a folder are right, by notebook and in all.

    Read from the stored outputs of the check cells; nothing is run, and a notebook counts as last saved.

    Raises:
        InputError: the folder holds no notebook of the course.
    """
    lines, right, total = ["| notebook | right |", "|---|---|"], 0, 0
    for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        said = {number: _printed(notebook.cells[index]) for number, index in checks(notebook).items()}
        good = sum(text.startswith(f"Exercise {number}: right") for number, text in said.items())
        lines.append(f"| {path.stem} | {good} of {len(said)} |")
        right, total = right + good, total + len(said)
    if not total:
        raise InputError(f"there is no notebook of the course in {Path(folder).resolve()}")
    return Table("\n".join([*lines, "", f"**{right} of {total} right**"]))


def _printed(cell: NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream").strip()
