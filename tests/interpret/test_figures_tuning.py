"""The figures of notebooks 03 and 04 are drawn, and their sentences tell the numbers."""

import numpy as np

from emrrg_lib.interpret import figures_training as figures
from emrrg_lib.interpret.style import png_bytes


def test_each_figure_is_drawn_and_tells_its_numbers():
    share = 1 - 0.5 ** np.arange(1, 9)
    row = {"step": 0, "α": [0.0, 0.0], "own image": 0.5, "other image": 0.5}
    end = {"step": 9, "α": [1.0, -2.0], "own image": 0.4, "other image": 0.625}
    gate = np.array([0.25, 0.25, 0.75, 0.75])
    X, Z = np.ones((2, 3)), np.zeros((2, 3))
    drawn = {
        "half": figures.rank_curves({"X": share, "Z": share**2}, "X", 1, "rank 1", "half is kept"),
        "LoRA_p(X): mean |ΔW| 1.0e+00 in the X rows, 0.0e+00 in the Z rows": figures.update_maps(
            {"LoRA_p(X)": np.vstack([X, Z]), "LoRA(in_proj)": np.vstack([X, X])}
        ),
        "X 0.500, dt 0.250": figures.tuning_curves({"X": [0.5] * 4, "dt": [0.25] * 4}, 0.7, 0.4),
        "from 0.00 to at most 0.96": figures.opening_curves([row, end], [0, 8]),
        "0.25 in the prompt, 0.75 at the cached steps": figures.gate_steps({"kit": gate, "defect": gate}, 2),
    }
    for words, figure in drawn.items():
        assert words in figure.alt
        assert len(png_bytes(figure, dpi=50)) > 2000
