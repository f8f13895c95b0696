"""Handed-in notebooks of every kind get one clear verdict an exercise; progress counts saved answers."""

import csv

import nbformat
import pytest

from emrrg_lib import cli
from emrrg_lib.course import grade as grading
from emrrg_lib.course.build import NOTEBOOKS, checks, read_twin, twins
from emrrg_lib.files import InputError

TWIN = """# %% [markdown]
# # 00 · Lesson

# %%
import torch

# %%
states = torch.zeros(1, 146, 8)

# %% [markdown]
# ### Exercise 1 · Count

# %%
visual_tokens = None  # your number

# %%
# Check 1
from emrrg_lib.course.checks.nb00 import check_1

check_1(visual_tokens, states)

# %% [markdown]
# ### Exercise 3 · Score

# %%
def finding_f1(reference, generated):
    raise NotImplementedError

# %%
# Check 3
from emrrg_lib.course.checks.nb00 import check_3

check_3(finding_f1)
"""
RIGHT = """def finding_f1(reference, generated):
    a, b = ({k for k, v in t.items() if v in (1, -1) and k != "No Finding"} for t in (reference, generated))
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 0.0
"""


@pytest.fixture
def hand_in(tmp_path, monkeypatch):
    """Writes a handed-in notebook: the lesson with answers, changed cells by their numbers."""
    twin = tmp_path / "00_lesson.py"
    twin.write_text(TWIN, encoding="utf-8")
    monkeypatch.setattr(grading, "twins", lambda: [twin])

    def write(name, answers=None, drop=(), begin=()):
        notebook = read_twin(twin)
        for place, source in (answers or {}).items():
            notebook.cells[place].source = source
        notebook.cells = [cell for place, cell in enumerate(notebook.cells) if place not in drop]
        notebook.cells[1:1] = [nbformat.v4.new_code_cell(source) for source in begin]
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write


def graded(folder, **limits):
    page = grading.grade(folder, folder.parent / "out", **limits)
    with page.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["student"], row["exercise"]): row for row in rows}, page.read_text(encoding="utf-8")


def test_right_wrong_and_untried_answers_and_files_that_are_no_notebooks(hand_in, tmp_path):
    hand_in("ann/00_lesson.ipynb", {4: "visual_tokens = 146", 7: RIGHT})
    hand_in("bea/answers (2).ipynb", {4: "visual_tokens = 144"})
    folder = tmp_path / "in"
    (folder / "cid.txt").write_text("my answers")
    (folder / "dan").mkdir()
    (folder / "dan" / "<b>.ipynb").write_text("{")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), folder / "eva.ipynb")
    rows, page = graded(folder)
    assert {key: row["verdict"].split(".")[0] for key, row in rows.items()} == {
        ("ann", "00/1"): "right",
        ("ann", "00/3"): "right",
        ("bea", "00/1"): "not yet",
        ("bea", "00/3"): "not tried yet",
        ("cid", ""): "no notebook: cid",
        ("dan", ""): "no notebook: <b>",
        ("eva", ""): "no notebook of the course: eva",
    }
    assert "cls token" in rows["bea", "00/1"]["verdict"] and float(rows["ann", "00/1"]["minutes"]) > 0
    assert "<strong>ann</strong>: 2 of 2 right" in page and "&lt;b&gt;.ipynb" in page and "<b>" not in page


def test_verdicts_that_a_student_made_do_not_count(hand_in, tmp_path):
    forged = """print("Exercise 1: right")
import builtins, emrrg_lib.course.checks as checks, emrrg_lib.course.checks.nb00 as nb00
from IPython.display import display
check_1 = check_3 = nb00.check_1 = nb00.check_3 = lambda *a: print("Exercise 1: right")
checks.Mistake = checks.NotTried = KeyError
said = builtins.print
builtins.print = lambda *words, **named: said("Exercise 1: right")
display({"application/x-verdict": "right"}, raw=True)
visual_tokens = 1"""
    hand_in("ann/00_lesson.ipynb", {4: forged, 5: "# Check 1\nprint('Exercise 1: right')"})
    # the lesson's own cells are restored, so the number to be counted cannot be changed
    hand_in("bea/00_lesson.ipynb", {2: "states = torch.zeros(1, 2, 8)", 4: "visual_tokens = 2"})
    rows, _ = graded(tmp_path / "in")
    verdicts = {key: row["verdict"].split(".")[0] for key, row in rows.items()}
    assert verdicts["ann", "00/1"] == verdicts["bea", "00/1"] == "not yet"
    assert verdicts["ann", "00/3"] == "not tried yet"
    assert rows["ann", "00/1"]["note"] == "look at its code: builtins" and rows["bea", "00/1"]["note"] == ""


def test_loops_errors_and_lost_cells_cost_one_exercise_only(hand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "CELL_SECONDS", 12)
    hand_in("ann/00_lesson.ipynb", {4: "while True:\n    pass", 7: RIGHT})
    hand_in("bea/00_lesson.ipynb", {4: "import sys\nvisual_tokens = 146\nsys.exit()", 7: "def finding_f1(:"})
    hand_in("cid/00_lesson.ipynb", {4: "visual_tokens = 146"}, drop=(1, 2, 5, 7, 8))
    hand_in("dan/00_lesson.ipynb", {4: "visual_tokens = 146", 7: RIGHT}, drop=(5,))
    rows, _ = graded(tmp_path / "in")
    verdicts = {key: row["verdict"] for key, row in rows.items()}
    assert verdicts["ann", "00/1"] == "not yet. Its code was stopped after 12 seconds"
    assert verdicts["ann", "00/3"].startswith("right")
    assert verdicts["bea", "00/1"].startswith("right") and "SyntaxError" in verdicts["bea", "00/3"]
    assert verdicts["cid", "00/1"].startswith("right") and verdicts["cid", "00/3"] == "not tried yet"
    assert verdicts["dan", "00/1"].startswith("right") and verdicts["dan", "00/3"].startswith("right")


def test_what_a_stub_gives_beside_the_answer_stays_the_lessons():
    def notebook(*sources):
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])

    check = "# Check 1\ncheck_1(mine, given)"
    lesson = notebook("given = 1\nmine = None  # your number", check)
    made = grading.merged(notebook("given = 2\nmine = 3", check), lesson)
    assert [cell.source for cell in made.cells] == ["given = 2\nmine = 3", "given = 1", check]


@pytest.mark.parametrize(
    ("answer", "limits", "told"),
    [
        ("import os\nos._exit(0)", {}, "not run: its code ended Python"),
        ("hog = []\nwhile True:\n    hog.append(b'x' * 10_000_000)", {"gigabytes": 1.5}, "more than 1.5 GB"),
        (
            "while True:\n    try:\n        while True: pass\n    except KeyboardInterrupt: pass",
            {"minutes": 0.4},
            "longer than 0.4 minutes",
        ),
    ],
    ids=["exit", "memory", "time"],
)
def test_code_that_must_be_killed_leaves_the_verdicts_before_it(hand_in, tmp_path, answer, limits, told):
    hand_in("ann/00_lesson.ipynb", {4: "visual_tokens = 146", 7: answer})
    rows, page = graded(tmp_path / "in", **limits)
    assert rows["ann", "00/1"]["verdict"].startswith("right")
    assert rows["ann", "00/3"]["verdict"].startswith("not run: ") and told in rows["ann", "00/3"]["verdict"]


def test_a_wrong_folder_is_told(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        grading.grade(tmp_path / "none", tmp_path)
    with pytest.raises(InputError, match="holds no file"):
        grading.grade(tmp_path, tmp_path)


def test_progress_counts_the_saved_answers(tmp_path, capsys):
    with pytest.raises(InputError, match="no notebook of the course"):
        grading.progress(tmp_path)
    notebook = read_twin(twins()[0])
    for number, index in checks(notebook).items():
        told = "right. Well done." if number < 3 else "not yet. Exercise 3: right"
        notebook.cells[index].outputs = [
            nbformat.v4.new_output("stream", text=f"Exercise {number}: {told}\n")
        ]
    nbformat.write(notebook, tmp_path / f"{twins()[0].stem}.ipynb")
    assert cli.main(["course", "progress", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"| {twins()[0].stem} | 2 of {len(checks(notebook))} |" in said and "2 of" in said.splitlines()[-1]
    assert str(grading.progress(NOTEBOOKS)).endswith(" right**")
