"""The notebooks run, their stored outputs are whole and clean, frames, exercises and links are as promised.

`notebooks/twins/NAME.py` is the source. After a change of the text, the library or the shipped weights,
execute it again and store the outputs: `make notebooks` is `python -m emrrg_lib.course.build [TWIN ...]`.
`make test-notebooks` runs every notebook, as it is and solved. The shipped run `data/tiny/run` is used; the
variable EMRRG_RUN names another one. Wrong answers to the exercises: tests/course/.
"""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="jupytext is not installed (extra dev)")
pytest.importorskip("nbclient", reason="nbclient is not installed (extra dev)")

import nbformat  # noqa: E402

from emrrg_lib.course.build import (  # noqa: E402
    NOTEBOOKS,
    checks,
    notebook_of,
    read_twin,
    run_cells,
    solutions,
    twins,
    variant,
)
from emrrg_lib.files import KIT, TINY_DIR  # noqa: E402

TWINS = twins()
every_notebook = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.stem)
MOST_CELLS, MOST_BYTES, MOST_LINES, MOST_COLUMNS, MOST_PRINTED = 100, 1_500_000, 25, 88, 100
ABSOLUTE = re.compile(r"(?<![\w.:/~…])(/(home|Users|root|tmp|var|opt|usr|mnt|work|private)/\w|[A-Z]:\\\w)")
WITHOUT_LETTERS = ("06_metrics",)  # the paper gives the scores no letters, so there is no glossary to show
FRAME = (  # what the first cell says: goal, needs, minutes, memory, paper
    r"^# \d\d · \S",
    r"^\*\*Goal\.\*\* ",
    r"^\| \*\*You need\*\* \|",
    r"^\| \*\*Time\*\* \|.* minutes",
    r"^\| \*\*CPU\*\* \|.* GB of memory.* (minutes?|seconds) to run",
    r"^\| \*\*GPU\*\* \| \S",
    r"^\| \*\*Paper\*\* \| \S",
)


def stored(twin):
    path = notebook_of(twin)
    assert path.is_file(), f"there is no {path.name}: `make notebooks`"
    return nbformat.read(path, as_version=4)


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def texts_of(notebook):
    """Everything in the outputs that a person reads: streams, plain text, HTML."""
    for output in outputs_of(notebook):
        if output.output_type == "stream":
            yield output.text
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield value


def prose_of(notebook):
    """The text cells one after the other, without code."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


def said(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream").strip()


@pytest.mark.notebooks
@pytest.mark.timeout(300)
@every_notebook
def test_the_notebook_runs_and_its_stubs_are_not_tried(twin):
    notebook = run_cells(read_twin(twin), NOTEBOOKS)  # raises for any error in a cell
    for number, index in checks(notebook).items():
        assert said(notebook.cells[index]) == f"Exercise {number}: not tried yet"


@pytest.mark.notebooks
@pytest.mark.timeout(300)
@every_notebook
def test_the_solved_variant_runs_and_every_check_says_right(twin):
    notebook = run_cells(variant(read_twin(twin), "solved"), NOTEBOOKS)
    for number, index in checks(notebook).items():
        assert said(notebook.cells[index]).startswith(f"Exercise {number}: right")


def test_every_notebook_has_its_twin_and_every_twin_its_notebook():
    assert sorted(TWINS[0].parent.glob("*.py")) == TWINS
    assert sorted(NOTEBOOKS.glob("*.ipynb")) == [notebook_of(twin) for twin in TWINS]


@every_notebook
def test_stored_outputs_are_there_and_clean(twin):
    path, notebook = notebook_of(twin), stored(twin)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell.outputs) for cell in code) >= len(code) // 2
    assert any("<img" in output.get("data", {}).get("text/html", "") for output in outputs_of(notebook))
    for output in outputs_of(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert not any("widget" in kind for kind in output.get("data", {}))
    assert "widgets" not in notebook.metadata
    for text in texts_of(notebook):
        assert not ABSOLUTE.search(text) and str(KIT) not in text and str(Path.home()) + "/" not in text
    assert path.stat().st_size <= MOST_BYTES and len(notebook.cells) <= MOST_CELLS


def test_the_stored_scores_of_the_first_notebook_are_those_of_the_shipped_run():
    text = "\n".join(texts_of(stored(TWINS[0])))
    metrics = json.loads((TINY_DIR / "run" / "metrics.json").read_text(encoding="utf-8"))
    scores = metrics["rows"][0]["metrics"]
    assert "run folder tiny/run" in text, "executed with another run: `make notebooks`"
    for name in ("Bleu_4", "CIDEr", "CE13_micro_F1"):
        assert f"{scores[name]:.3f}" in text, "the run has changed since: `make notebooks`"


@every_notebook
def test_every_picture_has_a_text_alternative(twin):
    notebook = stored(twin)
    for output in outputs_of(notebook):
        # no viewer reads the alt text of an image output: `html_image` makes one that all read
        assert not any(
            kind.startswith("image/") for kind in output.get("data", {}) if kind != "image/svg+xml"
        )
        for image in re.findall(r"<img\b[^>]*>", output.get("data", {}).get("text/html", "")):
            assert re.search(r"\balt=[\"'][^\"']{20}", image)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert all(alt.strip() for alt in re.findall(r"!\[([^\]]*)\]", cell.source))
            assert "<img" not in cell.source


@every_notebook
def test_cells_are_short_and_fit_beside_an_open_sidebar(twin):
    for cell in read_twin(twin).cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            assert len(lines) <= MOST_LINES and max(map(len, lines)) <= MOST_COLUMNS, lines[0]


@every_notebook
def test_printed_lines_fit_so_that_none_breaks_in_a_word(twin):
    printed = [output.text for output in outputs_of(stored(twin)) if output.output_type == "stream"]
    assert not [line for text in printed for line in text.splitlines() if len(line) > MOST_PRINTED]


@every_notebook
def test_the_text_twin_and_the_notebook_agree(twin):
    def cells(notebook):
        return [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells]

    assert cells(stored(twin)) == cells(read_twin(twin)), "run `make notebooks`"


@every_notebook
def test_links_lead_somewhere_and_the_last_line_to_the_neighbours(twin):
    def links(text):
        return [
            "".join(link) for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|^\[\w+\]: (\S+)", text, re.MULTILINE)
        ]

    body, _, last = prose_of(read_twin(twin)).rstrip().rpartition("\n\n")
    place, found = TWINS.index(twin), links(last)
    made = [notebook_of(each).name for each in TWINS]
    near = TWINS[max(0, place - 1) : place] + TWINS[place + 1 : place + 2]
    assert found[: len(near)] == [f"{neighbour.stem}.ipynb" for neighbour in near]
    for target in links(body) + found[len(near) :]:
        if "://" not in target:
            assert (NOTEBOOKS / target).exists() or target in made, target  # a twin's notebook is made later


def test_the_map_of_the_course_has_every_notebook_and_links_those_that_exist():
    text = prose_of(read_twin(TWINS[0]))
    rows = re.findall(r"^\| (?:\*\*|\[)?(\d\d) [^|\]*]+(?:\*\*|\]\[\1\])? \| .* \|$", text, re.MULTILINE)
    assert rows == [twin.stem[:2] for twin in TWINS]
    assert re.findall(r"^\[\d\d\]: (.*)\.ipynb$", text, re.MULTILINE) == [twin.stem for twin in TWINS[1:]]


@every_notebook
def test_the_frame_is_there_and_headings_are_in_order(twin):
    notebook = read_twin(twin)
    for line in FRAME:
        assert re.search(line, notebook.cells[0].source, re.MULTILINE), line
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    text = prose_of(notebook)
    assert re.search(r"\b(open_profile|picture_of|model_picture)\(", code)
    assert "glossary(" in code or "| name in the code |" in text or twin.stem in WITHOUT_LETTERS
    headings = re.findall(r"^(#+) (.*)", text, re.MULTILINE)
    titles, levels = [title for _, title in headings], [len(mark) for mark, _ in headings]
    assert titles[0].startswith(twin.stem[:2]) and levels[0] == 1 and levels.count(1) == 1
    assert titles.index("Exercises") < titles.index("Summary")
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


@every_notebook
def test_it_opens_with_what_one_will_be_able_to_do_and_closes_with_a_quiz(twin):
    text = "\n\n".join(cell.source for cell in read_twin(twin).cells if cell.cell_type == "markdown")
    opening, closing = text[: text.index("\n## ")], text[text.index("\n## Summary\n") :]
    able, contents = opening.split("**You will be able to**\n", 1)[1].split("**Contents.**", 1)
    assert 3 <= len(re.findall(r"^- ", able, re.MULTILINE)) <= 5
    assert contents.count("](#") >= 4
    summary, quiz = re.split(r"\*\*Quiz\.?\*\*|## Quiz", closing)
    quiz, reading = re.split(r"\*\*Further reading\.\*\*|## Further reading", quiz)
    assert len(re.findall(r"^- ", summary, re.MULTILINE)) >= 3
    questions = quiz.split("<summary>Answers</summary>")[0]  # or an answer under each
    assert re.findall(r"^(?:<details><summary>)?(\d)\. .*", questions, re.MULTILINE) == ["1", "2", "3"]
    assert quiz.count("<details>") in (1, 3) and ("arXiv" in reading or "doi" in reading)


@every_notebook
def test_exercises_are_numbered_and_whole(twin):
    notebook = read_twin(twin)
    text = prose_of(notebook)
    title = r"^### Exercise (\d+) · .+ \*\((bonus, )?(?:easy|medium|hard), \d+ minutes\)\*$"
    found = re.findall(title, text, re.MULTILINE)
    numbers = [int(number) for number, _ in found]
    assert 3 <= len(numbers) <= 12 and numbers == list(range(1, len(numbers) + 1))
    assert not any(bonus for _, bonus in found[:-1])  # the bonus task is the last one
    assert numbers == list(checks(notebook)) == list(solutions(notebook))
    assert text.count("<details><summary>Hint</summary>") == len(numbers)
    assert text.count("<details>") == text.count("</details>") >= 2 * len(numbers)  # and those of the quiz
