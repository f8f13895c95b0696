"""Checks of notebook 01: table rows, joining patches, grey folding, a resized position table, overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emrrg_lib.course.checks import array, call, exercise, expect, expect_value, pair, stage, tensor, whole


@exercise(1)
def check_1(table_rows: Callable[[int, int], int]) -> str:
    """`table_rows(image_size, patch_size)` against numbers counted by hand."""
    for image_size, patch, truth in ((96, 8, 145), (64, 32, 5), (256, 16, 257), (224, 16, 197)):
        yours, side = whole(call(table_rows, image_size, patch), "rows are counted"), image_size // patch
        slips = {
            truth - 1: "the cls token has a row too.",
            side + 1: "those are the patches of one edge only.",
            3 * truth - 2: "the three channels share a patch; they make no separate rows.",
            image_size**2 // patch + 1: "a patch is a square: divide both edges by it.",
            truth + 1: "there is one cls token in a view.",
        }
        cause = "count the patches along an edge, square them, add the cls token."
        expect_value(yours, truth, cause, slips, f"{image_size} px in patches of {patch}")
    return "224 px in patches of 16 make the 197 of the released code."


@exercise(2)
def check_2(join: Callable[[Tensor, int], Tensor]) -> str:
    """`join(patches, side)` against images whose pixels are numbered, cut by `F.unfold`."""
    stages = (  # side, pixels of a patch's edge, what this case isolates
        (1, 2, "one patch is the whole image: inside a patch the order is channel, row, column."),
        (3, 1, "patches of one pixel: patch i lies in row i // side, column i % side, its channels apart."),
        (
            3,
            2,
            "grid and patch are each right alone: bring row of the grid and row of the patch together "
            "(permute before the last reshape).",
        ),
    )
    for side, edge, cause in stages:
        image = torch.arange(3.0 * (side * edge) ** 2).view(3, side * edge, side * edge)
        patches = F.unfold(image[None], kernel_size=edge, stride=edge)[0].T  # PyTorch's own cutting
        cut = patches.clone()
        told = f"{side} × {side} patches of {edge} × {edge}, channels first."
        yours = call(join, cut, side)
        array(yours, tuple(image.shape), told)
        expect_value(yours, image, cause)
        expect(torch.equal(cut, patches), "Your function changes `patches` in place.")
    return "Cutting and joining lose nothing."


@exercise(3)
def check_3(fold_grey: Callable[..., tuple[Tensor, Tensor]]) -> str:
    """`fold_grey` against the three-channel convolution of the normalised image."""
    draw = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(5, 3, 4, 4, generator=draw), torch.randn(5, generator=draw)
    grey = torch.rand(1, 1, 8, 8, generator=draw).double()
    zero, one = torch.zeros(3), torch.ones(3)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.5])
    stages = (
        (zero, one, "mean 0, deviation 1: three equal channels add up; sum the kernels, no average."),
        (zero, std, "mean 0: divide each channel's kernel by its own deviation before you sum."),
        (
            mean,
            std,
            "the means shift the answer by a constant: subtract Σ weight · mean / std, over "
            "channels and pixels, from the bias.",
        ),
    )
    for m, s, cause in stages:
        given = weight.clone(), bias.clone(), m.clone(), s.clone()
        answer = pair(call(fold_grey, *given), "Return two things: the weight and the bias.")
        kernel = tensor(answer[0], (5, 1, 4, 4), "keep the channel axis with length 1 (keepdim).")
        shift = tensor(answer[1], (5,), "one bias for each of the d channels.")
        normalised = (grey - m.view(1, 3, 1, 1)) / s.view(1, 3, 1, 1)  # (1, 3, 8, 8)
        truth = F.conv2d(normalised.double(), weight.double(), bias.double(), stride=4)
        expect_value(F.conv2d(grey, kernel, shift, stride=4), truth, cause)
        same = all(torch.equal(a, b) for a, b in zip(given, (weight, bias, m, s), strict=True))
        expect(same, "Your function changes one of its arguments in place.")
    return "The same tokens from a third of the weights."


@exercise(4)
def check_4(resize_table: Callable[[Tensor, int], Tensor]) -> str:
    """`resize_table(table, side)` from 6 × 6 to 8 × 8: its properties, then against `F.interpolate`."""
    new, middle, marker = 8, 32, torch.tensor([70.0, -70.0, 7.0])

    def table(grid: Tensor) -> Tensor:  # (6, 6, 3) → (37, 3) with the marked cls row at 18
        rows = grid.reshape(36, 3)
        return torch.cat([rows[:18], marker[None], rows[18:]])

    def resized(grid: Tensor) -> Tensor:
        return tensor(call(resize_table, table(grid), new), (65, 3), "8 × 8 patches and the cls row.")

    yours = resized(torch.ones(6, 6, 3))
    at = (yours - marker).abs().sum(dim=1).argmin().item()
    expect(
        (yours - marker).abs().amax(dim=1).min().item() < 1e-3,
        "The cls row is not there any more: keep it aside while you resample, then put it back.",
    )
    expect(at == middle, f"The cls row is at {at}, expected {middle}: the middle of the new table.")
    rest = torch.cat([yours[:middle], yours[middle + 1 :]])
    expect_value(rest, torch.ones(64, 3), "a constant table must stay constant: does cls leak into it?")
    ramp = torch.arange(6.0)[:, None, None].expand(6, 6, 3)  # every row of the grid has one value
    rows = _patches(resized(ramp))
    expect_value(
        rows,
        rows[:, :1].expand(8, 8, 3),
        "a table equal along each row must stay so: resample rows and columns, not one line of 36.",
    )
    grid = torch.randn(6, 6, 3, generator=torch.Generator().manual_seed(4))
    yours = _patches(resized(grid)).permute(2, 0, 1)
    picture = grid.permute(2, 0, 1)[None]  # (1, 3, 6, 6)
    slips = []
    for mode, align in (("bilinear", False), ("bilinear", True), ("bicubic", True)):
        other = F.interpolate(picture, (new, new), mode=mode, align_corners=align)[0]
        slips.append((other, f"Yours is {mode} with align_corners={align}; the kit's is bicubic with False."))
    smooth = F.interpolate(picture, (new, new), mode="bicubic", antialias=True)[0]
    slips.append((smooth, "Yours antialiases, which is another bicubic kernel; the kit's does not."))
    truth = F.interpolate(picture, (new, new), mode="bicubic", align_corners=False)[0]
    expect_value(yours, truth, "resample the rows as a (1, d, n, n) picture, bicubically.", slips)
    expect(
        torch.equal(
            tensor(call(resize_table, table(grid), 4), (17, 3), "4 × 4 patches and the cls row.")[8],
            marker.double(),
        ),
        "A smaller grid: cls must be in its middle, at side² // 2.",
    )
    return "Checkpoints of one image size now fit another."


def _patches(table: Tensor) -> Tensor:
    """(65, 3) → (8, 8, 3) without the row in the middle."""
    return torch.cat([table[:32], table[33:]]).reshape(8, 8, 3)


@exercise(5)
def check_5(join_overlapping: Callable[[Tensor, int, int, int], Tensor]) -> str:
    """`join_overlapping(patches, size, patch, stride)` against a sum pixel by pixel."""
    cases = (
        ("no overlap", 6, 2, 2, "without overlap this is exercise 2."),
        ("half overlap", 8, 4, 2, "inner pixels are in 4 patches, edges in 2, corners in 1."),
        ("another stride", 7, 3, 2, "along an edge there are (size − patch) / stride + 1 patches."),
        ("stride 1", 5, 3, 1, "count for each pixel how many patches hold it."),
    )
    for seed, (name, size, patch, stride, cause) in enumerate(cases):
        with stage(name):
            side = (size - patch) // stride + 1
            draw = torch.Generator().manual_seed(seed)
            patches = torch.randn(side * side, 3 * patch * patch, generator=draw)
            total, held = np.zeros((3, size, size)), np.zeros((size, size))
            newest = np.zeros((3, size, size))
            for number, values in enumerate(patches.double().numpy().reshape(-1, 3, patch, patch)):
                top, left = (stride * at for at in divmod(number, side))
                here = slice(top, top + patch), slice(left, left + patch)
                total[:, here[0], here[1]] += values
                newest[:, here[0], here[1]] = values
                held[here] += 1
            yours = call(join_overlapping, patches.clone(), size, patch, stride)
            array(yours, (3, size, size), "an image, channels first.")
            slips = (
                (total, "this is the sum of all patches at a pixel: divide by their number."),
                (newest, "later patches overwrite earlier ones: all that hold a pixel count."),
                (total / held.max(), "pixels at the edge are in fewer patches than inner ones."),
                (total / (patch / stride) ** 2, "pixels at the edge are in fewer patches than inner ones."),
                ((total / held).transpose(0, 2, 1), "rows and columns are exchanged: patches are row-major."),
            )
            expect_value(yours, total / held, cause, slips)
    return "Cutting with overlap and joining by the mean lose nothing either."
