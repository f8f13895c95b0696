"""Executes notebooks from their text twins: `make notebooks`, or `python -m emrrg_lib.course.build`.

`notebooks/NAME.py` (jupytext, percent format) is the source; `NAME.ipynb` is made from it, with stored
outputs. What changes from machine to machine is left out, so that a new execution gives a small diff.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

from ..files import write_text

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
SHIPPED_RUN = ROOT / "data" / "tiny" / "run"
COLOURS = 224  # of a stored picture; 32 true greys join them
PLANNED = (  # the course in its order; what does not exist yet may be named as next or previous only
    "00_start_here", "01_patch_embedding", "02_mamba_block", "03_partial_lora", "04_hybrid_cross_attention",
    "05_training_iu_xray", "06_metrics", "07_gate_and_attention_explorer", "08_pretraining", "09_ablations",
    "10_paper_vs_released_code")


def twins() -> list[Path]:
    """The text twins of the notebooks that exist, in the order of the course."""
    return [twin for name in PLANNED if (twin := NOTEBOOKS / f"{name}.py").is_file()]


def read_twin(twin: Path) -> nbformat.NotebookNode:
    """The notebook of a text twin, without outputs; cell ids are their numbers, so they stay the same."""
    notebook = jupytext.read(twin)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02}"
    # jupytext notes its own version here, which is of no use to a reader of the diff
    notebook.metadata.get("jupytext", {}).pop("text_representation", None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run_cells(notebook: nbformat.NotebookNode, folder: Path, timeout: int = 300) -> nbformat.NotebookNode:
    """Executes a notebook in place, in `folder`, with the shipped run and this checkout of the kit.

    The variable EMRRG_RUN, where it is set, names another run folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
        nbclient.exceptions.CellTimeoutError: a cell took longer than `timeout` seconds.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"EMRRG_RUN": str(SHIPPED_RUN), "HF_HUB_OFFLINE": "1", **os.environ,
                   "PYTHONPATH": os.pathsep.join(paths)}
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", record_timing=False,
                            coalesce_streams=True, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return tidy(notebook)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drops widgets (each has a static twin) and versions of the machine; gives pictures a palette."""
    notebook.metadata.pop("widgets", None)  # without its state part a code host shows nothing at all
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs
                            if not any("widget" in kind for kind in output.get("data", {}))]
        for output in cell.get("outputs", []):
            _shrink(output.get("data", {}))
    return notebook


def _shrink(data: dict[str, Any]) -> None:
    """Gives a picture a palette of 256 colours: less than half of the size, no difference to the eye."""
    if "image/png" in data:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as image:
            image = image.convert("RGB")
        # the default method drops the rare colours of a colour bar; this one keeps them, but tints greys
        chosen = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1).getpalette()
        greys = [round(255 * i / (255 - COLOURS)) for i in range(256 - COLOURS) for _ in "RGB"]
        palette = Image.new("P", (1, 1))
        palette.putpalette(chosen[:3 * COLOURS] + greys)
        image.quantize(palette=palette, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        data["image/png"] = base64.b64encode(buffer.getvalue()).decode("ascii")


def execute(twin: Path) -> Path:
    """Makes `NAME.ipynb` beside `NAME.py`, executed. Raises as `run_cells`, and then writes nothing."""
    notebook = run_cells(read_twin(twin), twin.parent)
    return write_text(twin.with_suffix(".ipynb"), nbformat.writes(notebook) + "\n")


def main(names: list[str]) -> None:
    """Executes the named twins, or all of `notebooks/`."""
    for twin in [Path(name) for name in names] or twins():
        print("executing", twin.name, flush=True)
        path = execute(twin)
        print(f"wrote {path.name}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
