"""The two-page handout: the picture of the model and its formulas, then the letters and their shapes."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib import image as pictures
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from emrrg_lib.course.notebook import ROWS
from emrrg_lib.files import KIT, atomic_path

PAGE = (8.27, 11.69)  # A4, in inches
FORMULAS = (  # name and place in the paper, formula, one line about it
    (
        "Patches (§3.2)",
        r"$T_i = E\,\mathrm{vec}(P_i),\quad M = (H / P)^2$",
        "each patch becomes a token of d numbers",
    ),
    (
        "Scan (§3.2)",
        r"$h_t = e^{\Delta_t A}\,h_{t-1} + \Delta_t B_t x_t,\quad y_t = C_t h_t + D x_t$",
        r"$\Delta$, B and C come from the token itself; SiLU(Z) gates each of the four directions",
    ),
    (
        "Partial LoRA (§3.3)",
        r"$X = (W_X + s\,B_X A_X)\,T$",
        "W is frozen; the pair B A of rank r trains; B starts at 0, so training starts at the old model",
    ),
    (
        "Cross-attention (Eq. 1)",
        r"$X' = \mathrm{softmax}(q K^{\top} / \sqrt{h})\,V,\quad K = W_k V_s,\; V = W_v V_s$",
        "every word asks the visual tokens a question",
    ),
    (
        "Gate (Eq. 2)",
        r"$S \leftarrow S + X' \cdot \tanh(w_g \cdot S + b_g) \cdot \tanh(\alpha)$",
        r"one number per word; $\alpha$ starts at 0, so at first no image gets in",
    ),
    (
        "Loss (Eq. 3)",
        r"$L = -\frac{1}{n}\sum_t \log p(w_t \mid w_{<t},\, \mathrm{image})$",
        "the mean over the words of the report",
    ),
)


def write_handout(path: Path) -> Path:
    """Writes the PDF, A4, two pages; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, PdfPages(partial, metadata={"Title": "EMRRG on two pages"}) as pdf:
        for page in (_model_page(), _letters_page()):
            pdf.savefig(page)
    return path


def _model_page() -> Figure:
    page = Figure(figsize=PAGE)
    page.text(0.07, 0.95, "EMRRG on two pages", fontsize=20, weight="bold")
    page.text(0.07, 0.93, "From a chest X-ray to a report. Paper: arXiv 2510.16776", fontsize=10)
    axes = page.add_axes((0.07, 0.51, 0.86, 0.41))
    axes.imshow(pictures.imread(KIT / "data" / "model_picture.png"), interpolation="lanczos")
    axes.axis("off")
    for number, (name, formula, remark) in enumerate(FORMULAS):
        y = 0.475 - 0.072 * number
        page.text(0.07, y, name, fontsize=9.5, weight="bold")
        page.text(0.30, y, formula, fontsize=13)
        page.text(0.30, y - 0.026, remark, fontsize=8.5, color="#444444")
    page.text(0.07, 0.03, "Not for clinical use.", fontsize=8)
    return page


def _letters_page() -> Figure:
    page = Figure(figsize=PAGE)
    page.text(0.06, 0.95, "The letters, their names in the code and their shapes", fontsize=14, weight="bold")
    columns = {"paper": 0.06, "name in the code": 0.14, "shape": 0.41, "meaning": 0.6}
    for name, x in columns.items():
        page.text(x, 0.925, name, fontsize=8.5, weight="bold")
    for number, row in enumerate(ROWS):
        y = 0.91 - 0.87 * number / len(ROWS)
        cells = (row.letter, row.code, row.shape.replace("*", "·"), textwrap.fill(row.meaning, 61))
        for x, text, font in zip(columns.values(), cells, ("", "monospace", "", ""), strict=True):
            style = {"family": font, "fontsize": 6.2} if font else {"fontsize": 6.8, "linespacing": 0.95}
            page.text(x, y, text.replace("$", r"\$"), va="top", **style)
    return page
