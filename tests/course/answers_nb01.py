"""Answers to the exercises of notebook 01: wrong (exercise, code, words of the message) and right ones."""

import numpy as np
import torch
import torch.nn.functional as F

SCOPE = {"torch": torch, "np": np, "F": F}
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
OVERLAP = """
def answer(patches, size, patch, stride):
    total, held = torch.zeros(3, size, size), torch.zeros(size, size)
    side = (size - patch) // stride + 1
    for i in range(side * side):
        r, c = i // side * stride, i % side * stride
        part = patches[i].view(3, patch, patch)
        total[:, r:r + patch, c:c + patch] += part
        held[r:r + patch, c:c + patch] += 1
    return {end}
"""
WRONG = [
    (1, "def answer(s, p):\n    return (s // p) ** 2", "the cls token has a row"),
    (1, "def answer(s, p):\n    return s // p + 1", "one edge only"),
    (1, "def answer(s, p):\n    return 3 * (s // p) ** 2 + 1", "three channels share"),
    (1, "def answer(s, p):\n    return s * s // p + 1", "a patch is a square"),
    (1, "def answer(s, p):\n    return (s // p) ** 2 + 2", "one cls token"),
    (1, "def answer(s, p):\n    return (s / p) ** 2 + 1.5", "A whole number is expected"),
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
    (
        4,
        "def answer(table, side):\n    m = len(table) // 2\n"
        "    rest = torch.cat([table[:m], table[m + 1:]])\n"
        "    picked = torch.arange(side**2) * len(rest) // side**2\n"
        "    return torch.cat([rest[picked][:side**2 // 2], table[m:m + 1], rest[picked][side**2 // 2:]])",
        "a table equal along each row",
    ),
    (5, OVERLAP.format(end="total"), "divide by their number"),
    (5, OVERLAP.format(end="total / held.max()"), "at the edge are in fewer patches"),
    (5, OVERLAP.format(end="(total / held).transpose(1, 2)"), "rows and columns are exchanged"),
    (5, OVERLAP.format(end="total / held").replace("+= part", "= part"), "inner pixels are in 4 patches"),
    (
        5,
        OVERLAP.format(end="total").replace("+= part", "= part"),
        "later patches overwrite",
    ),
    (5, OVERLAP.format(end="(total / held)[0]"), "Shape"),
    (5, OVERLAP.format(end="total / held").replace("size - patch", "size"), "Your code raised"),
]

ALSO_RIGHT = [
    (1, "def answer(s, p):\n    return np.int64(s // p) ** 2 + 1"),
    (1, "def answer(s, p):\n    return (s / p) ** 2 + 1"),
    (
        2,
        "def answer(patches, side):\n    e = int((patches.shape[1] // 3) ** 0.5)\n"
        "    return F.fold(patches.T[None], side * e, e, stride=e)[0]",
    ),
    (
        2,
        "def answer(patches, side):\n    e = int((patches.shape[1] // 3) ** 0.5)\n"
        "    image = np.zeros((3, side * e, side * e), np.float32)\n"
        "    for i, patch in enumerate(patches.numpy()):\n"
        "        r, c = divmod(i, side)\n"
        "        image[:, r * e:(r + 1) * e, c * e:(c + 1) * e] = patch.reshape(3, e, e)\n    return image",
    ),
    (
        3,
        "def answer(weight, bias, mean, std):\n    w = (weight / std[:, None, None]).numpy()\n"
        "    return [w.sum(1)[:, None], bias.numpy() - np.einsum('dcij,c->d', w, mean.numpy())]",
    ),
    (
        3,
        "def answer(weight, bias, mean, std):\n"
        "    black = (-mean / std).view(1, 3, 1, 1).expand(1, *weight.shape[1:])\n"
        "    one = torch.einsum('dcij,c->dij', weight, 1 / std)[:, None]\n"
        "    return one, F.conv2d(black, weight, bias)[0, :, 0, 0]",
    ),
    (4, RESIZE + BICUBIC + MIDDLE),
    (
        4,
        RESIZE
        + "    rows = F.interpolate(grid.double(), size=(side, side), mode='bicubic')[0].flatten(1).T\n"
        "    return np.insert(rows.numpy(), half, cls.numpy(), axis=0)",
    ),
    (5, OVERLAP.format(end="total / held")),
    (
        5,
        "def answer(patches, size, patch, stride):\n"
        "    fold = lambda p: F.fold(p.T[None], size, patch, stride=stride)[0]\n"
        "    return (fold(patches) / fold(torch.ones_like(patches))).numpy()",
    ),
]
