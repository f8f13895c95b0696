"""Wrong answers to the exercises of notebook 03: (exercise, code, words of the message)."""

import torch

from emrrg_lib.config import EncoderConfig
from emrrg_lib.vision.mamba import VisionMamba

with torch.device("meta"):
    RELEASED = VisionMamba(EncoderConfig(image_size=224))
SCOPE = {"torch": torch, "released": RELEASED, "VisionMamba": VisionMamba, "EncoderConfig": EncoderConfig}
COUNT = """
def answer(target, d, depth, r):
    R, N = {R}, 16
    rows = {{"X": {X}, "Z": d, "in_proj": 2 * d, "out_proj": d, "dt": R, "B": N, "C": N,
             "x_proj": R + 2 * N, "dt_proj": d}}[target]
    inputs = R if target == "dt_proj" else d
    copies = {copies} if target in ("dt", "B", "C", "x_proj", "dt_proj") else 1
    return {result}
"""
RIGHT = {"R": "-(-d // 16)", "X": "d", "copies": "4", "result": "depth * copies * r * (inputs + rows)"}
ROWS = "def answer(x, W, A, B, start, scale):\n    "
BLOCK = "y = x @ W.T\n    y[:, start:start + len(B)] += "
PAIR = "def answer(target, r):\n    U, s, Vh = torch.linalg.svd(target, full_matrices=False)\n    return "
WRONG = [
    (1, COUNT.format(**RIGHT | {"X": "2 * d"}), "that is LoRA(in_proj)"),
    (1, COUNT.format(**RIGHT | {"result": "copies * r * (inputs + rows)"}), "that is one block"),
    (1, COUNT.format(**RIGHT | {"result": "depth * copies * inputs * rows"}), "the X block itself"),
    (1, COUNT.format(**RIGHT | {"copies": "1"}), "that is one direction"),
    (1, COUNT.format(**RIGHT | {"R": "d // 16"}), "rounded up"),
    (
        1,
        COUNT.format(**RIGHT | {"result": "12 * copies * 32 * (inputs + rows)"}),
        "hold a number",
    ),
    (
        2,
        ROWS + "y = x @ W.T\n    y[:, :len(B)] += scale * x @ A.T @ B.T\n    return y",
        "is in rows 0 to 2",
    ),
    (2, ROWS + BLOCK + "x @ A.T @ B.T\n    return y", "`scale`, here 0.5, is missing"),
    (2, ROWS + "W[start:start + len(B)] += scale * B @ A\n    return x @ W.T", "changes W itself"),
    (2, ROWS + BLOCK + "scale * x @ A.T @ B.T\n    return y.T", "one row a token"),
    (
        2,
        ROWS + "y = x @ W.T\n    return y + scale * (x @ A.T @ B.T).mean(1, keepdim=True)",
        "outside of the block",
    ),
    (
        2,
        ROWS + BLOCK + "scale * (x @ A.T) @ torch.ones(2, len(B)).double()\n    return y",
        "with B = 0 it has to be",
    ),
    (3, PAIR + "Vh[:r], U[:, :r] * s[:r]", "Did you return A first"),
    (3, PAIR + "U[:, :r], Vh[:r]", "Both singular values"),
    (3, PAIR + "U[:, :r] * s[:r], s[:r, None] * Vh[:r]", "are squared"),
    (3, PAIR + "U[:, -r:] * s[-r:], Vh[-r:]", "the smallest singular values"),
    (3, PAIR + "U[:, :r] * s[:r], Vh.T[:r]", "the distance to the target"),
    (3, PAIR + "U[:, :2] * s[:2], Vh[:2]", "Is 2 written into your code"),
    (4, "answer = 84_262_656", "the whole encoder"),
    (4, "answer = 84_110_592", "never calls them"),
    (4, "answer = 57_461_760", "pos_embed is still in it"),
    (4, "answer = 57.31", "a whole number"),
]
