"""Checks of notebook 08, pre-training. Truth: orders written out by hand, patches normalised in loops, closed
forms of the contrastive loss, frequencies counted by hand, and the names that the library's encoder has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from emrrg_lib.config import TINY_ENCODER
from emrrg_lib.course.checks import array, call, exercise, expect, expect_value, stage, tensor, texts, whole
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
        where = f"side {side}, edge {edge}, row {row}, column {column}"
        yours = whole(call(place, row, column, side, edge), "places are counted, divide by //")
        expect_value(yours, truth, f"{cause}.", where=where)
    for side, edge in ((8, 4), (9, 3), (10, 1)):
        grid = np.arange(side * side).reshape(side // edge, side // edge, edge, edge)
        truth = grid.transpose(0, 2, 1, 3).reshape(side, side)  # row, column → place
        yours = [[whole(call(place, r, c, side, edge)) for c in range(side)] for r in range(side)]
        expect_value(yours, truth, "another grid than the notebook's.", where=f"side {side}, edge {edge}")
    return "Each patch has its own place."


def _targets(images: np.ndarray, patch: int) -> np.ndarray:
    """The target patch by patch: row-major patches, (row, column, channel) in a patch, n − 1, plus 1e-6."""
    B, _, H, W = images.shape
    parts = []
    for image in images:
        for top in range(0, H, patch):
            for left in range(0, W, patch):
                pixels = image[:, top : top + patch, left : left + patch].transpose(1, 2, 0).ravel()
                parts.append((pixels - pixels.mean()) / math.sqrt(pixels.var(ddof=1) + 1e-6))
    return np.array(parts).reshape(B, -1, 3 * patch * patch)


@exercise(2)
def check_2(targets: Callable) -> str:
    """`targets(images, patch)`: (B, 3, H, W) → (B, M, 3 · patch²)."""
    for seed, (B, H, W, patch) in enumerate(((1, 2, 2, 2), (1, 4, 4, 2), (2, 6, 9, 3), (3, 8, 4, 4))):
        with stage(f"{B} images of {H} × {W}, patches of {patch}"):
            images = torch.randn(B, 3, H, W, generator=torch.Generator().manual_seed(seed)) * 3 + 1
            given = images.clone()
            truth = _targets(images.double().numpy(), patch)
            yours = array(call(targets, given, patch), truth.shape, "(image, patch, 3 · patch²).")
            expect(torch.equal(given, images), "Your function changes the images that it is given.")
            n = truth.shape[-1]
            pixels = truth.reshape(B, -1, patch, patch, 3)
            swapped = truth.reshape(B, H // patch, W // patch, n).swapaxes(1, 2).reshape(truth.shape)
            slips = [
                (
                    truth * math.sqrt(n / (n - 1)),
                    "the variance divides by n − 1 (torch.var does so by itself).",
                ),
                (
                    pixels.transpose(0, 1, 4, 2, 3).reshape(truth.shape),
                    "the channel comes last inside a patch.",
                ),
                (
                    pixels.swapaxes(2, 3).reshape(truth.shape),
                    "inside a patch the row comes first, then the column.",
                ),
                (swapped, "the patches are numbered line by line."),
            ]
            cause = "subtract the mean of all 3 · patch² numbers of a patch, divide by √(variance + 1e-6)."
            expect_value(yours, truth, cause, slips, tolerance=1e-3)
    with stage("a flat patch"):
        yours = array(
            call(targets, torch.full((1, 3, 2, 2), 5.0), 2), (1, 1, 12), "(image, patch, 3 · patch²)."
        )
        expect(
            np.isfinite(yours).all(),
            "A patch without structure gives NaN or infinity: add 1e-6 to the variance.",
        )
        expect_value(yours, np.zeros((1, 1, 12)), "a patch of one colour is all 0.", tolerance=1e-3)
    with stage("a nearly flat patch"):
        images = 1e-3 * torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(9))
        truth, cause = _targets(images.double().numpy(), 2), "1e-6 is added to the variance, under the root."
        expect_value(call(targets, images, 2), truth, cause, tolerance=1e-3)
    return "Mean 0 and deviation 1 in each patch: brightness is gone, structure is left."


def _scalar(yours: object) -> np.ndarray:
    return array(yours, (), "one number, the mean over the batch.")


@exercise(3)
def check_3(pair_loss: Callable) -> None:
    """`pair_loss(images, reports, scale)` against closed forms."""
    one = torch.eye(3)
    each_its_own = math.log(1 + 2 * math.exp(-2.0))
    yours = _scalar(call(pair_loss, one.clone(), one.clone(), 2.0))
    slips = {
        2 * each_its_own: "You add rows and columns; take their mean.",
        3 * each_its_own: "You add the pairs; take their mean.",
        math.log(1 + 2 * math.exp(-math.exp(2.0))): "You take exp(scale), but scale is not a logarithm here.",
        math.log(1 + 2 * math.exp(-1.0)): "The scale is not used: logits are scale · similarity.",
        math.log(1 + 2 * math.exp(-0.5)): "You divide by the scale; multiply by it, it is 1 / temperature.",
    }
    expect_value(yours, each_its_own, "three pairs, each fits its own only: ln(1 + 2 · e^(−2)).", slips)
    yours = _scalar(call(pair_loss, 5 * one, 0.1 * one, 2.0))
    expect_value(yours, each_its_own, "the length of a vector must not count: normalise both, along dim 1.")
    # two images alike, reports different: rows cannot separate them, columns can in part
    images, reports = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[1.0, 0], [0, 1]])
    rows = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(1.0))) / 2
    columns = math.log(2)
    yours = _scalar(call(pair_loss, images, reports, 1.0))
    slips = {
        rows: "Only the rows: the columns (which image belongs to this report?) are missing.",
        columns: "Only the columns: the rows (which report belongs to this image?) are missing.",
    }
    expect_value(
        yours, (rows + columns) / 2, "the mean of cross-entropy along rows and along columns.", slips
    )
    for S, width in ((2, 5), (7, 4)):
        draw = torch.Generator().manual_seed(S)
        images, reports = (torch.randn(S, width, generator=draw) for _ in range(2))
        yours, truth = _scalar(call(pair_loss, images, reports, 3.0)), _soft(images, reports, 3.0, range(S))
        expect_value(yours, truth, "right on the small cases only.", where=f"{S} random pairs")


def _soft(images: torch.Tensor, reports: torch.Tensor, scale: float, labels: Sequence) -> float:
    """The loss in loops; pairs of one label share the target."""
    a = [row / np.linalg.norm(row) for row in images.double().numpy()]
    b = [row / np.linalg.norm(row) for row in reports.double().numpy()]
    logits = scale * np.array([[x @ y for y in b] for x in a])
    total = 0.0
    for table in (logits, logits.T):
        for i, row in enumerate(table):
            alike = [j for j, label in enumerate(labels) if label == labels[i]]
            total -= np.mean([row[j] for j in alike]) - math.log(np.exp(row).sum())
    return total / (2 * len(labels))


@exercise(4)
def check_4(floor: Callable) -> None:
    """`floor(texts)` against frequencies counted by hand."""
    stages = [
        (["a", "b", "c"], 0.0, "all reports differ: a perfect model pays nothing"),
        (["a", "a", "a", "a"], math.log(4), "all alike: nothing better than a draw from a hat, ln 4"),
        (["a", "a", "b", "c"], math.log(2) / 2, "two of four pay ln 2, the others nothing"),
        (
            ["a", "b", "a", "b", "b", "c"],
            (2 * math.log(2) + 3 * math.log(3)) / 6,
            "two pay ln 2, three pay ln 3, one nothing",
        ),
        (
            ["no effusion", "no", "no effusion"],
            2 * math.log(2) / 3,
            "“no” is another report than “no effusion”",
        ),
    ]
    for given, truth, cause in stages:
        kept = list(given)
        yours = array(call(floor, kept), (), "one number.")
        expect(kept == given, "Your function changes the list that it is given.")
        groups = [given.count(text) for text in sorted(set(given))]
        by_text = sum(map(math.log, groups)) / len(groups)
        slips = {
            sum(n * math.log(n) for n in groups): "divide the sum by the number of images.",
            by_text: "each image counts, not each different text: average over all of the batch.",
            math.log(len(given)): "ln B is what a model pays that knows nothing; this one knows all it can.",
            truth / math.log(2): "the loss is in nats: natural logarithm, not base 2.",
        }
        expect_value(yours, truth, f"{cause}.", slips, str(given), tolerance=1e-5)


def _one_direction(wanted: Sequence[str]) -> list[str]:
    ends = ("_b", "_c")
    return [name for name in wanted if not any(f"{e}." in f"{name}." or f"{e}_log" in name for e in ends)]


@exercise(5)
def check_5(new_names: Callable) -> str:
    """`new_names(name)` against the names that VisionMamba has."""
    with torch.device("meta"):
        wanted = VisionMamba(TINY_ENCODER).state_dict().keys()
    one = _one_direction(list(wanted))
    first = "layers.0.mixer.x_proj.weight"
    kind = "a list of names is expected"
    yours = texts(call(new_names, first), kind)
    expect(len(yours) == 4, f"x_proj has a name for each of four directions; yours has {len(yours)}.")
    given: set[str] = set()
    for name in one:
        yours = texts(call(new_names, name), kind)
        given |= set(yours)
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
    missing = sorted(wanted - given)
    expect(not missing, f"Nobody gets {', '.join(missing[:3])}: look at the list of five once more.")
    for trap, told in (
        ("head.Dense.weight", "has a capital D and is not part of a mixer"),
        ("layers.3.norm.D_scale", "is not part of a mixer"),
    ):
        same = texts(call(new_names, trap), kind) == [trap]
        expect(same, f"{trap} {told}: it keeps its name. Compare whole parts, not letters.")
    return f"{len(one)} names become {len(given)}."


@exercise(6)
def check_6(fair_loss: Callable) -> str:
    """`fair_loss(images, reports, scale, texts)`: the target is shared among equal texts."""
    with stage("all texts differ"):
        draw = torch.Generator().manual_seed(0)
        images, reports = (torch.randn(4, 6, generator=draw) for _ in range(2))
        yours = _scalar(call(fair_loss, images, reports, 3.0, list("abcd")))
        truth = _soft(images, reports, 3.0, "abcd")
        slips = [(2 * truth, "take the mean of rows and columns.")]
        expect_value(yours, truth, "with different texts it is CLIP's loss of exercise 3.", slips)
    with stage("all texts equal"):
        yours = _scalar(call(fair_loss, images, reports, 3.0, list("aaaa")))
        plain = _soft(images, reports, 3.0, "abcd")
        slips = [(plain, "the texts are not used: images of equal texts share their target, 1/4 each.")]
        expect_value(yours, _soft(images, reports, 3.0, "aaaa"), "each target is 1/4.", slips)
    for S, given in ((6, "aabcbb"), (5, "xyxyz")):
        draw = torch.Generator().manual_seed(S)
        images, reports = (torch.randn(S, 3, generator=draw) for _ in range(2))
        kept = images.clone(), reports.clone()
        with stage(f"the texts {', '.join(given)}"):
            yours = _scalar(call(fair_loss, images, reports, 2.0, list(given)))
            expect(
                torch.equal(kept[0], images) and torch.equal(kept[1], reports),
                "Your function changes its input.",
            )
            cause = "a row's targets are 1/k for the k reports of its text, 0 for the others; they sum to 1."
            expect_value(yours, _soft(images, reports, 2.0, given), cause)
    with stage("a perfect model"):
        same = torch.eye(3)[[0, 0, 1, 2]]
        far = float(tensor(call(fair_loss, same, same.clone(), 60.0, list("aabc"))))
        expect_value(
            far,
            math.log(2) / 2,
            "its floor is that of exercise 4; only the gradient is fair.",
            tolerance=1e-3,
        )
    return "The floor stays, but no gradient pushes twins apart any more."
