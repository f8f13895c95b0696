"""The notebooks run, their stored outputs are whole and clean, text twins agree, links lead somewhere.

`notebooks/NAME.py` is the source. After a change of the text, the library or the shipped weights, execute
it again and store the outputs with `make notebooks`, which is `python -m emrrg_lib.course.build [TWIN ...]`.
The shipped run `data/tiny/run` is used; the variable EMRRG_RUN names another one.
"""

import base64
import copy
import io
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="jupytext is not installed (extra dev)")
pytest.importorskip("nbclient", reason="nbclient is not installed (extra dev)")

import nbformat  # noqa: E402
from PIL import Image  # noqa: E402

from emrrg_lib.course.build import NOTEBOOKS, ROOT, SHIPPED_RUN, read_twin, run_cells, tidy  # noqa: E402

TWINS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
every_notebook = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.stem)
MOST_CELLS, MOST_BYTES = 60, 1_500_000
ABSOLUTE = re.compile(r"(?<![\w.:/~…])(/(home|Users|root|tmp|var|opt|usr|mnt|work|private)/\w|[A-Z]:\\\w)")

# Plausible wrong answers, and the words by which the check must know the mistake.
WRONG_ANSWERS = {
    "00_start_here": [
        (1, "visual_tokens = 2 * 144", "no cls token"),
        (1, "visual_tokens = 145", "the study has two"),
        (1, "visual_tokens = 144", "without its cls token"),
        (2, "def write_with_gates(scale):\n    return model.generate(pixels, mask)[0]", "same report"),
        (2, "def write_with_gates(scale):\n    with gates_scaled(model.llm, dict.fromkeys(layers, scale)):\n"
            "        return model.generate(pixels, mask)", "not a str"),
        (2, "def write_with_gates(scale):\n    for module in layers.values():\n"
            "        module.gate_scale = scale\n    return model.generate(pixels, mask)[0]\n"
            "write_all = write_with_gates\ndef write_with_gates(scale):\n    return write_all(scale * 0.5)",
         "the gates stay at 0.5"),
        (3, "def finding_f1(a, b):\n    return sum(a[n] == b[n] for n in a) / 14", "missed, one invented"),
        (3, "def finding_f1(a, b):\n    a, b = ({n for n, v in x.items() if v == 1 and n != 'No Finding'}"
            " for x in (a, b))\n    return 2 * len(a & b) / max(1, len(a) + len(b))", "uncertain counts"),
        (3, "def finding_f1(a, b):\n    a, b = ({n for n, v in x.items() if v in (1, -1)} for x in (a, b))\n"
            "    return 2 * len(a & b) / max(1, len(a) + len(b))", "'No Finding' is left out"),
        (3, "def finding_f1(a, b):\n    a, b = ({n for n, v in x.items() if v in (1, -1) and "
            "n != 'No Finding'} for x in (a, b))\n    return 2 * len(a & b) / (len(a) + len(b))",
         "divides by zero"),
    ],
}


def stored(twin):
    return nbformat.read(twin.with_suffix(".ipynb"), as_version=4)


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


def check_cells(notebook):
    """Exercise number -> index of its check cell."""
    found = {}
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and (match := re.match(r"# Check (\d+)\n", cell.source)):
            found[int(match.group(1))] = index
    return found


def solutions(notebook):
    """Exercise number -> the code of its folded solution."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    folded = re.findall(r"<summary>Solution (\d+)</summary>\s*```python\n(.*?)```\s", text, re.DOTALL)
    return {int(number): code for number, code in folded}


def said(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def with_answers(notebook, name):
    """The notebook as it is, and after its end every solution and every wrong answer with its check.

    Returns:
        The longer notebook and (index of the check's cell, text it must print) pairs.
    """
    notebook, expected = copy.deepcopy(notebook), []
    checks, answers = check_cells(notebook), solutions(notebook)
    tries = [(number, code, ": right") for number, code in answers.items()]
    for number, code, cause in [*tries, *WRONG_ANSWERS[name]]:
        notebook.cells.append(nbformat.v4.new_code_cell(code))
        notebook.cells.append(nbformat.v4.new_code_cell(notebook.cells[checks[number]].source))
        expected.append((len(notebook.cells) - 1, cause))
    return notebook, expected


@pytest.mark.timeout(300)
@every_notebook
def test_the_notebook_runs_and_its_checks_know_right_from_wrong(twin):
    name, source = twin.stem, read_twin(twin)
    assert check_cells(source).keys() == solutions(source).keys() and len(solutions(source)) >= 3
    longer, expected = with_answers(source, name)
    run_cells(longer, NOTEBOOKS)  # raises for any error in a cell
    for index in check_cells(source).values():
        assert said(longer.cells[index]).strip().endswith("not tried yet")
    for index, cause in expected:
        assert cause in said(longer.cells[index]), longer.cells[index - 1].source


@every_notebook
def test_stored_outputs_are_there_and_clean(twin):
    path, notebook = twin.with_suffix(".ipynb"), stored(twin)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell.outputs) for cell in code) >= len(code) // 2
    assert any("image/png" in output.get("data", {}) for output in outputs_of(notebook))
    for output in outputs_of(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert not any("widget" in kind for kind in output.get("data", {}))
    assert "widgets" not in notebook.metadata
    for text in texts_of(notebook):
        assert not ABSOLUTE.search(text) and str(ROOT) not in text and str(Path.home()) + "/" not in text
    assert path.stat().st_size <= MOST_BYTES and len(notebook.cells) <= MOST_CELLS


def test_the_stored_scores_of_the_first_notebook_are_those_of_the_shipped_run():
    text = "\n".join(texts_of(stored(NOTEBOOKS / "00_start_here.py")))
    metrics = json.loads((SHIPPED_RUN / "metrics.json").read_text(encoding="utf-8"))
    scores = metrics["rows"][0]["metrics"]
    assert "run folder tiny/run" in text, "executed with another run: `make notebooks`"
    for name in ("Bleu_4", "CIDEr", "CE13_micro_F1"):
        assert f"{scores[name]:.3f}" in text, "the run has changed since: `make notebooks`"


@every_notebook
def test_every_picture_has_a_text_alternative(twin):
    notebook = stored(twin)
    for output in outputs_of(notebook):
        if "image/png" in output.get("data", {}):
            assert len(output.metadata["image/png"]["alt"]) > 20
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert all(alt.strip() for alt in re.findall(r"!\[([^\]]*)\]", cell.source))
            assert "<img" not in cell.source


@every_notebook
def test_the_text_twin_and_the_notebook_agree(twin):
    def cells(notebook):
        return [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells]

    assert cells(stored(twin)) == cells(read_twin(twin)), "run `make notebooks`"


@every_notebook
def test_links_lead_to_files_and_headings_are_in_order(twin):
    text = [re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            for cell in read_twin(twin).cells if cell.cell_type == "markdown"]
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", "\n".join(text)):
        if "://" not in target:
            assert (NOTEBOOKS / target).exists(), target
    levels = [len(mark) for mark in re.findall(r"^(#+) ", "\n".join(text), re.MULTILINE)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_tidy_drops_widget_state_and_shrinks_pictures():
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG", compress_level=0)
    output = nbformat.v4.new_output(
        "display_data", {"image/png": base64.b64encode(buffer.getvalue()).decode()})
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(outputs=[output])], metadata={"widgets": {"x": {}}})
    tidy(notebook)
    png = base64.b64decode(notebook.cells[0].outputs[0].data["image/png"])
    assert "widgets" not in notebook.metadata and len(png) < len(buffer.getvalue()) / 10
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (256, 256) and image.mode == "P"
