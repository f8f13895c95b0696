"""Checks of notebook 08, pre-training. Truth: orders written out by hand, closed forms of the contrastive
loss, frequencies counted by hand, and the names that the library's own encoder has."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from emrrg_lib.config import TINY_ENCODER
from emrrg_lib.course.checks import call, exercise, expect, expect_value
from emrrg_lib.vision.mamba import VisionMamba


@exercise(1)
def check_1(place: Callable) -> str:
    """`place(row, column, side, edge)` against grids written out by hand."""
    stages = (  # side, edge, row, column, truth, cause
        (3, 3, 1, 2, 5, "one cluster is the whole grid: inside a cluster count line by line"),
        (3, 1, 2, 1, 7, "clusters of one patch: count the clusters line by line"),
        (6, 2, 0, 2, 4, "the first cluster has 4 patches, so the second begins at 4"),
        (6, 2, 1, 0, 2, "the first cluster has two lines: its second begins at 2, not at a line of the grid"),
        (6, 2, 2, 0, 12, "three clusters are side by side before the next line of clusters begins"),
        (12, 4, 7, 9, 93, "it lies in cluster 5, which begins at 5 · 16, and there in line 3, column 1"),
    )
    for side, edge, row, column, truth, cause in stages:
        yours = call(place, row, column, side, edge)
        expect(not isinstance(yours, float), f"Yours is {yours}, a float: places are counted, divide by //.")
        where = f"side {side}, edge {edge}, row {row}, column {column}"
        expect_value(yours, truth, f"{cause}.", where=where)
    seen = sorted(call(place, row, column, 8, 4) for row in range(8) for column in range(8))
    expect(seen == list(range(64)), "Some place of the 8 × 8 grid is given twice.")
    return "Each patch has its own place."


@exercise(2)
def check_2(pair_loss: Callable) -> None:
    """`pair_loss(images, reports, scale)` against closed forms."""
    one = torch.eye(3)
    each_its_own = math.log(1 + 2 * math.exp(-2.0))
    yours = call(pair_loss, one.clone(), one.clone(), 2.0)
    expect(
        isinstance(yours, torch.Tensor) and yours.dim() == 0, f"Yours is {yours!r}, expected a scalar tensor."
    )
    slips = {
        2 * each_its_own: "You add rows and columns; take their mean.",
        math.log(1 + 2 * math.exp(-math.exp(2.0))): "You take exp(scale), but scale is not a logarithm here.",
        math.log(1 + 2 * math.exp(-1.0)): "The scale is not used: logits are scale · similarity.",
        math.log(1 + 2 * math.exp(-0.5)): "You divide by the scale; multiply by it, it is 1 / temperature.",
    }
    cause = "three pairs, each fits its own only: ln(1 + 2 · e^(−2))."
    expect_value(yours, each_its_own, cause, slips)
    yours = call(pair_loss, 5 * one, 0.1 * one, 2.0)
    expect_value(yours, each_its_own, "the length of a vector must not count: normalise both, along dim 1.")
    # two images alike, reports different: rows cannot separate them, columns can in part
    images, reports = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[1.0, 0], [0, 1]])
    rows = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(1.0))) / 2
    columns = math.log(2)
    yours = call(pair_loss, images, reports, 1.0)
    slips = {
        rows: "Only the rows: the columns (which image belongs to this report?) are missing.",
        columns: "Only the columns: the rows (which report belongs to this image?) are missing.",
    }
    cause = "the mean of cross-entropy along rows and along columns."
    expect_value(yours, (rows + columns) / 2, cause, slips)


@exercise(3)
def check_3(floor: Callable) -> None:
    """`floor(texts)` against frequencies counted by hand."""
    stages = (
        (["a", "b", "c"], 0.0, "all reports differ: a perfect model pays nothing"),
        (["a", "a", "a", "a"], math.log(4), "all alike: nothing better than a draw from a hat, ln 4"),
        (["a", "a", "b", "c"], math.log(2) / 2, "two of four pay ln 2, the others nothing"),
        (
            ["a", "b", "a", "b", "b", "c"],
            (2 * math.log(2) + 3 * math.log(3)) / 6,
            "two pay ln 2, three pay ln 3, one nothing",
        ),
    )
    for texts, truth, cause in stages:
        groups = [texts.count(text) for text in sorted(set(texts))]
        by_text = sum(map(math.log, groups)) / len(groups)
        slips = {
            sum(n * math.log(n) for n in groups): "divide the sum by the number of images.",
            by_text: "each image counts, not each different text: average over all of the batch.",
            math.log(len(texts)): "ln S is what a model pays that knows nothing; this one knows all it can.",
            truth / math.log(2): "the loss is in nats: natural logarithm, not base 2.",
        }
        yours = float(call(floor, list(texts)))
        expect_value(yours, truth, f"{cause}.", slips, str(texts), tolerance=1e-6)


@exercise(4)
def check_4(new_names: Callable) -> str:
    """`new_names(name)` against the names that VisionMamba has."""
    with torch.device("meta"):
        wanted = VisionMamba(TINY_ENCODER).state_dict().keys()
        one = [
            name
            for name in wanted
            if not any(f"{end}." in f"{name}." or f"{end}_log" in name for end in ("_b", "_c"))
        ]
    yours = call(new_names, "layers.0.mixer.x_proj.weight")
    expect(isinstance(yours, list | tuple), f"Yours is a {type(yours).__name__}, expected a list of names.")
    expect(len(yours) == 4, f"x_proj has a name for each of four directions; yours has {len(yours)}.")
    for name in one:
        yours = call(new_names, name)
        expect(name in yours, f"{name}: the first direction keeps the old name; yours {yours}.")
        strange = sorted(set(yours) - wanted)
        cause = {
            "A_log": "the ending comes after the A: A_b_log.",
            "in_proj": "all directions share in_proj and out_proj.",
            "out_proj": "all directions share in_proj and out_proj.",
        }.get(
            name.split(".")[3] if name.count(".") > 2 else "",
            "the ending belongs to the module, before “.weight” or “.bias”.",
        )
        expect(not strange, f"{name}: the encoder has no {', '.join(strange)}: {cause}")
        expect(len(set(yours)) == len(yours), f"{name}: yours has a name twice.")
    given = {new for name in one for new in new_names(name)}
    missing = sorted(wanted - given)
    expect(not missing, f"Nobody gets {', '.join(missing[:3])}: look at the list of five once more.")
    trap = "head.Dense.weight"
    expect(
        list(call(new_names, trap)) == [trap],
        f"{trap} has a capital D and is not part of a mixer: it "
        "keeps its name. Compare whole parts, not letters.",
    )
    return f"{len(one)} names become {len(given)}."
