"""Variants of the notebooks, their folder and links; what is stored of an executed notebook."""

import base64
import io
import json
import re
import shutil

import nbformat
import pytest
from PIL import Image

from emrrg_lib import cli
from emrrg_lib.course.build import (
    NOTEBOOKS,
    TWINS,
    build,
    checks,
    read_twin,
    run_cells,
    solutions,
    tidy,
    twins,
    variant,
)
from emrrg_lib.files import InputError
from emrrg_lib.interpret.style import Picture, html_image

LESSON = '''# %% [markdown]
# # 00 · Lesson
# See [`the code`](../emrrg_lib/model.py), `layers[0](x)`, [site](https://example.org), \
[01](01_patch_embedding.ipynb).
#
# ### Exercise 1 · Double *(easy, 1 minutes)*
# <details><summary>Hint</summary>
#
# twice
#
# </details>

# %%
base = 4
table = {"base": base}
double = None  # your number


# %%
# Check 1
print("right" if double == 8 else "not tried yet", table)

# %% [markdown]
# <details><summary>Solution 1</summary>
#
# ```python
# double = 2 * base
# ```
#
# Twice four.
#
# </details>
#
# ### Exercise 2 · Shout *(easy, 1 minutes)*

# %%
def shout(word):
    """In capitals."""
    raise NotImplementedError

# %%
# Check 2
print(shout("a"))

# %% [markdown]
# <details><summary>Solution 2</summary>
#
# ```python
# def shout(word):
#     return word.upper()
# ```
#
# </details>
'''


@pytest.fixture
def lesson(tmp_path):
    path = tmp_path / "00_lesson.py"
    path.write_text(LESSON, encoding="utf-8")
    return read_twin(path)


def text(notebook):
    return "\n".join(cell.source for cell in notebook.cells)


def test_checks_and_solutions_are_found_by_number(lesson):
    assert checks(lesson) == {1: 2, 2: 5}
    assert solutions(lesson) == {1: "double = 2 * base", 2: "def shout(word):\n    return word.upper()"}


def test_a_student_gets_stubs_and_hints_but_no_solutions(lesson):
    text_before = [cell.source for cell in lesson.cells if cell.cell_type == "code"]
    made = variant(lesson, "student")
    assert [cell.source for cell in made.cells if cell.cell_type == "code"] == text_before
    assert "Hint" in text(made) and "twice" in text(made) and "Exercise 2" in text(made)
    assert "Solution" not in text(made) and "Twice four" not in text(made) and "upper" not in text(made)
    assert len(made.cells) == 6  # the cell that held nothing but a solution is gone


def test_solved_has_the_solutions_in_the_stubs_and_keeps_what_stubs_prepare(lesson):
    made = variant(lesson, "solved")
    assert made.cells[1].source == 'base = 4\ntable = {"base": base}\ndouble = 2 * base'
    assert made.cells[4].source == "def shout(word):\n    return word.upper()"
    assert "Solution" not in text(made) and "Twice four." in text(made) and "Hint" in text(made)
    assert "NotImplementedError" not in text(made) and "jupytext" not in made.metadata


def test_an_unknown_variant_is_refused(lesson):
    with pytest.raises(InputError, match="choose student or solved"):
        variant(lesson, "teacher")


@pytest.mark.parametrize("kind", ["student", "solved"])
def test_the_command_builds_every_notebook_with_links_that_work(kind, tmp_path, capsys):
    out = tmp_path / "class"
    assert cli.main(["course", "build", "--variant", kind, "--out", str(out)]) == 0
    assert sorted(path.stem for path in out.glob("*.*")) == [twin.stem for twin in twins()]
    assert capsys.readouterr().out.count("wrote") == len(twins())
    for path in out.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells) and "Solution" not in text(notebook)
        nbformat.validate(notebook)
    first = text(nbformat.read(out / "00_start_here.ipynb", as_version=4))
    assert "](01_patch_embedding.ipynb)" in first
    target = re.search(r"whole\s+model\]\(([^)]+)\)", first)[1]
    assert (out / target).read_bytes() == (NOTEBOOKS.parent / "emrrg_lib" / "model.py").read_bytes()


def test_the_folder_of_a_class_holds_all_that_it_links_to_and_no_solution(tmp_path):
    build("student", tmp_path / "class")
    shutil.move(tmp_path / "class", tmp_path / "elsewhere")
    files = [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]
    links = 0
    for path in files:
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
            prose = re.sub(r"```.*?```|`[^`]*`", "", prose, flags=re.DOTALL)
            for target in re.findall(r"\]\(([^)#\s]+)", prose):
                assert "://" in target or (path.parent / target).exists(), target
                links += "://" not in target
    assert links > 20 and not any(path.name in {twin.name for twin in twins()} for path in files)
    handed_out = "\n".join(
        path.read_text(encoding="utf-8") for path in files if path.suffix in (".ipynb", ".md")
    )
    for twin in twins():
        for code in solutions(read_twin(twin)).values():
            assert json.dumps(code)[1:-1] not in handed_out and code not in handed_out


def test_links_are_turned_but_those_between_notebooks_and_code_are_not(tmp_path):
    twin = tmp_path / "notebooks" / "00_lesson.py"
    twin.parent.mkdir()
    twin.write_text(LESSON, encoding="utf-8")
    (tmp_path / "emrrg_lib").mkdir()
    (tmp_path / "emrrg_lib" / "model.py").write_text("model")
    (path,) = build("student", tmp_path / "course" / "student", sources=[twin])
    assert (path.parent / "kit" / "emrrg_lib" / "model.py").read_text() == "model"
    assert text(nbformat.read(path, as_version=4)).splitlines()[1] == (
        "See [`the code`](kit/emrrg_lib/model.py), `layers[0](x)`, [site](https://example.org), "
        "[01](01_patch_embedding.ipynb)."
    )


def test_somebodys_answers_are_never_overwritten(tmp_path):
    made = build("student", tmp_path, sources=twins()[:2])
    assert build("student", tmp_path, sources=twins()[:2]) == made
    notebook = nbformat.read(made[1], as_version=4)
    notebook.cells[1].source = "my answer"
    nbformat.write(notebook, made[1])
    with pytest.raises(InputError, match="perhaps somebody's answers"):
        build("student", tmp_path, sources=twins()[:2])
    assert nbformat.read(made[1], as_version=4).cells[1].source == "my answer"


def test_twins_come_in_the_order_of_the_course():
    numbers = [int(twin.stem[:2]) for twin in twins()]
    assert numbers == list(range(12)) and twins() == sorted(TWINS.glob("*.py"))


def test_tidy_drops_widgets_and_keeps_the_twin_and_shrinks_pictures():
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG", compress_level=0)
    widget, twin = (
        nbformat.v4.new_output("display_data", data)
        for data in (
            {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "VBox()"},
            {"text/html": f"<b>{html_image(buffer.getvalue(), 'grey')}</b>"},
        )
    )
    stream = nbformat.v4.new_output("stream", text="read-out")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(outputs=[widget, twin, stream]), nbformat.v4.new_markdown_cell("x")],
        metadata={"widgets": {"x": {}}},
    )
    outputs = tidy(notebook).cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data", "stream"]
    before, png, after = re.split('base64,|(?=">)', outputs[0].data["text/html"])
    assert before.startswith('<b><img alt="grey" src="data:image/png;') and after == '"></b>'
    png = base64.b64decode(png)
    assert "widgets" not in notebook.metadata and len(png) < len(buffer.getvalue()) / 10
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (256, 256) and image.mode == "P"


def test_nbconvert_shows_a_picture_with_its_sentence_once():
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is not installed (extra dev)")
    picture = Picture((2, 1), alt="A heart, drawn small & round.")
    output = nbformat.v4.new_output("display_data", picture._repr_mimebundle_())
    cell = nbformat.v4.new_code_cell(outputs=[output])
    page, _ = nbconvert.HTMLExporter().from_notebook_node(tidy(nbformat.v4.new_notebook(cells=[cell])))
    shown = page[page.index("<main") :]
    assert re.findall(r'<img alt="([^"]*)"', shown) == ["A heart, drawn small &amp; round."]
    assert shown.count("<img") == 1 and "No description" not in shown


def test_a_small_notebook_is_executed_in_its_folder(tmp_path):
    code = nbformat.v4.new_code_cell("import os\nprint(os.getcwd(), os.environ['EMRRG_RUN'][-8:])")
    notebook = run_cells(nbformat.v4.new_notebook(cells=[code]), tmp_path, timeout=60)
    assert notebook.cells[0].outputs[0].text.split() == [str(tmp_path.resolve()), "tiny/run"]
