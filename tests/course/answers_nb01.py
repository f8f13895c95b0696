"""Wrong answers to the exercises of notebook 01: (exercise, code, words of the message)."""

import torch
import torch.nn.functional as F

SCOPE = {"torch": torch, "F": F}
JOIN = (
    "def answer(patches, side):\n    e = int((patches.shape[1] // 3) ** 0.5)\n    n = side * e\n    return "
)
FOLD = (
    "def answer(weight, bias, mean, std):\n    mean, std = mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)\n"
    "    return "
)
RESIZE = """
def answer(table, side):
    m, half = table.shape[0] // 2, side * side // 2
    n, cls = int((table.shape[0] - 1) ** 0.5), table[m:m + 1]
    grid = torch.cat([table[:m], table[m + 1:]]).T.reshape(1, -1, n, n)
"""
PICTURE = "    rows = F.interpolate(grid, (side, side), mode={mode}, align_corners={align})[0].flatten(1).T\n"
LINE = "    rows = F.interpolate(grid.flatten(2), side * side, mode='linear')[0].T\n"
MIDDLE = "    return torch.cat([rows[:half], cls, rows[half:]])"
BICUBIC = PICTURE.format(mode="'bicubic'", align=False)
WRONG = [
    (1, "def answer(s, p):\n    return (s // p) ** 2", "the cls token has a row"),
    (1, "def answer(s, p):\n    return s // p + 1", "one edge only"),
    (1, "def answer(s, p):\n    return 3 * (s // p) ** 2 + 1", "three channels share"),
    (1, "def answer(s, p):\n    return s * s // p + 1", "a patch is a square"),
    (1, "def answer(s, p):\n    return (s / p) ** 2 + 1", "a float"),
    (1, "def answer(s, p):\n    return 145", "64 px in patches of 32"),
    (
        2,
        JOIN + "patches.reshape(side, side, 3, e, e).permute(0, 3, 1, 4, 2).reshape(n, n, 3)",
        "channels first",
    ),
    (
        2,
        JOIN + "patches.reshape(side, side, e, e, 3).permute(4, 0, 2, 1, 3).reshape(3, n, n)",
        "inside a patch the order is channel",
    ),
    (
        2,
        JOIN + "patches.reshape(side, side, 3, e, e).permute(2, 1, 3, 0, 4).reshape(3, n, n)",
        "row i // side",
    ),
    (
        2,
        JOIN + "patches.reshape(side, side, 3, e, e).permute(2, 0, 1, 3, 4).reshape(3, n, n)",
        "each right alone",
    ),
    (3, FOLD + "weight.mean(1, keepdim=True), bias", "sum the kernels, no average"),
    (3, FOLD + "weight.sum(1, keepdim=True), bias - (weight * mean).sum((1, 2, 3))", "its own deviation"),
    (
        3,
        FOLD + "(weight / std).sum(1, keepdim=True), bias + (weight * mean / std).sum((1, 2, 3))",
        "the means shift the answer",
    ),
    (3, FOLD + "(weight / std).sum(1), bias", "keepdim"),
    (3, FOLD + "(weight / std).sum(1, keepdim=True)", "Return two things"),
    (4, RESIZE + BICUBIC + "    return rows", "8 × 8 patches and the cls row"),
    (4, RESIZE + BICUBIC + "    return torch.cat([rows, cls])", "row is at 64"),
    (4, RESIZE + BICUBIC + MIDDLE.replace("cls", "rows[:1]"), "The cls row is not there"),
    (
        4,
        "def answer(table, side):\n    return F.interpolate(table.T[None], side**2 + 1, mode='linear')[0].T",
        "does cls leak",
    ),
    (4, RESIZE + LINE + MIDDLE, "not one line of 36"),
    (4, RESIZE + PICTURE.format(mode="'bilinear'", align=False) + MIDDLE, "Yours is bilinear"),
    (4, RESIZE + PICTURE.format(mode="'bicubic'", align=True) + MIDDLE, "bicubic with align_corners=True"),
]
