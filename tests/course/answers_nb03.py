"""Answers to the exercises of notebook 03: wrong ones with words of the message, and other right ones."""

import numpy as np
import torch
from torch import nn

from emrrg_lib.config import EncoderConfig
from emrrg_lib.vision.mamba import VisionMamba

with torch.device("meta"):
    RELEASED = VisionMamba(EncoderConfig(image_size=224))
SCOPE = {
    "torch": torch,
    "nn": nn,
    "np": np,
    "released": RELEASED,
    "VisionMamba": VisionMamba,
    "EncoderConfig": EncoderConfig,
}
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
LAYER = """
class answer(nn.Module):
    def __init__(self, base, r, start, stop, scale):
        super().__init__()
        self.base, self.start, self.stop, self.scale = {base}, start, stop, scale
        self.A = {A}
        self.B = {B}
        {more}

    def forward(self, x):
        y = {y}
        {forward}
        return y
"""
PARTS = {
    "base": "base.requires_grad_(False)",
    "A": "nn.Parameter(torch.randn(r, base.in_features))",
    "B": "nn.Parameter(torch.zeros(stop - start, r))",
    "more": "",
    "y": "self.base(x)",
    "forward": "y[..., self.start:self.stop] += self.scale * x @ self.A.T @ self.B.T",
}
TRAIN = """
def answer(layer, x, y, steps, rate):
    {freeze}
    trained, losses = {trained}, []
    {optimizer}
    for _ in range(steps):
        loss = {loss}
        {before}
        loss.backward()
        {step}
        {after}
    return {result}
"""
LOOP = {
    "freeze": "layer.base.requires_grad_(False)",
    "trained": "[layer.A, layer.B]",
    "optimizer": "optimizer = torch.optim.SGD(trained, lr=rate)",
    "loss": "(layer(x) - y).square().mean()",
    "before": "losses.append(float(loss.detach()))",
    "step": "optimizer.step()",
    "after": "optimizer.zero_grad()",
    "result": "losses",
}
COPY = "import copy; layer = copy.deepcopy(layer); layer.base.requires_grad_(False)"
LATER = "losses.append(float((layer(x) - y).square().mean().detach()))"
PAIR = "def answer(target, r):\n    U, s, Vh = torch.linalg.svd(target, full_matrices=False)\n    return "
FIRST = "def answer(G, A, rate, scale):\n    return "
WRONG = [
    (1, COUNT.format(**RIGHT | {"X": "2 * d"}), "that is LoRA(in_proj)"),
    (1, COUNT.format(**RIGHT | {"result": "copies * r * (inputs + rows)"}), "that is one block"),
    (1, COUNT.format(**RIGHT | {"result": "depth * copies * inputs * rows"}), "the X block itself"),
    (1, COUNT.format(**RIGHT | {"copies": "1"}), "that is one direction"),
    (1, COUNT.format(**RIGHT | {"R": "d // 16"}), "rounded up"),
    (1, COUNT.format(**RIGHT | {"result": "12 * copies * 32 * (inputs + rows)"}), "hold a number"),
    (2, ROWS + "y = x @ W.T\n    y[:, :len(B)] += scale * x @ A.T @ B.T\n    return y", "is in rows 0 to 2"),
    (2, ROWS + BLOCK + "x @ A.T @ B.T\n    return y", "`scale`, here 0.5, is missing"),
    (2, ROWS + BLOCK + "scale**2 * x @ A.T @ B.T\n    return y", "in it twice"),
    (2, ROWS + BLOCK + "scale / len(A) * x @ A.T @ B.T\n    return y", "divided by r"),
    (2, ROWS + "W[start:start + len(B)] += scale * B @ A\n    return x @ W.T", "changes W itself"),
    (2, ROWS + BLOCK + "scale * x @ A.T @ B.T\n    return y.T", "one row a token"),
    (
        2,
        ROWS + "y = x @ W.T\n    return y + scale * (x @ A.T @ B.T).mean(1, keepdim=True)",
        "outside of the block",
    ),
    (
        2,
        ROWS + "y = x @ W.T\n    y[:, start:start + len(B)] = scale * x @ A.T @ B.T\n    return y",
        "with B = 0 it has to be",
    ),
    (3, LAYER.format(**PARTS | {"base": "base"}), "would train too"),
    (3, LAYER.format(**PARTS | {"B": "torch.zeros(stop - start, r)"}), "to be an nn.Parameter"),
    (3, LAYER.format(**PARTS | {"B": "nn.Parameter(torch.zeros(base.out_features, r))"}), "a block of 5"),
    (3, LAYER.format(**PARTS | {"B": "nn.Parameter(torch.randn(stop - start, r))"}), "start at zero"),
    (3, LAYER.format(**PARTS | {"A": "nn.Parameter(torch.zeros(r, base.in_features))"}), "neither ever"),
    (3, LAYER.format(**PARTS | {"A": "nn.Parameter(torch.ones(r, base.in_features))"}), "rows differ"),
    (3, LAYER.format(**PARTS | {"y": "x @ self.base.weight.T"}), "its bias included"),
    (
        3,
        LAYER.format(**PARTS | {"forward": "y[..., :len(self.B)] += self.scale * x @ self.A.T @ self.B.T"}),
        "begins at row 0",
    ),
    (
        3,
        LAYER.format(**PARTS | {"forward": "y[..., self.start:self.stop] += x @ self.A.T @ self.B.T"}),
        "`scale`, here 0.5, is missing",
    ),
    (3, LAYER.format(**PARTS | {"forward": "pass"}), "does nothing yet"),
    (
        3,
        LAYER.format(
            **PARTS
            | {"forward": "y[..., self.start:self.stop] += self.scale * x @ self.A.data.T @ self.B.data.T"}
        ),
        "No gradient flows back",
    ),
    (4, TRAIN.format(**LOOP | {"freeze": "pass", "trained": "list(layer.parameters())"}), "moved: freeze"),
    (4, TRAIN.format(**LOOP | {"after": "pass"}), "earlier steps are still in it"),
    (4, TRAIN.format(**LOOP | {"trained": "[layer.B]"}), "A does not move"),
    (4, TRAIN.format(**LOOP | {"loss": "(layer(x) - y).square().sum(1).mean()"}), "all numbers"),
    (
        4,
        TRAIN.format(**LOOP | {"before": "", "after": "optimizer.zero_grad(); " + LATER}),
        "after the first step",
    ),
    (4, TRAIN.format(**LOOP | {"result": "losses + losses[-1:]"}), "not once more at the end"),
    (4, TRAIN.format(**LOOP | {"result": "losses[-1]"}), "one loss for each step"),
    (4, TRAIN.format(**LOOP | {"freeze": COPY}), "train that layer, no copy"),
    (
        4,
        TRAIN.format(**LOOP | {"step": "[p.grad.neg_() for p in trained]; optimizer.step()"}),
        "Your loss rises",
    ),
    (
        4,
        TRAIN.format(**LOOP | {"optimizer": "optimizer = torch.optim.Adam(trained, lr=rate)"}),
        "plain gradient descent",
    ),
    (5, PAIR + "Vh[:r], U[:, :r] * s[:r]", "Did you return A first"),
    (5, PAIR + "U[:, :r], Vh[:r]", "U and V give directions"),
    (5, PAIR + "U[:, :r] * s[:r], s[:r, None] * Vh[:r]", "are squared"),
    (5, PAIR + "U[:, -r:] * s[-r:], Vh[-r:]", "the smallest singular values"),
    (5, PAIR + "U[:, :r] * s[:r], torch.linalg.qr(torch.randn(len(Vh.T), r))[0].T", "point elsewhere"),
    (5, PAIR + "U[:, :2] * s[:2], Vh[:2]", "B is (rows, r)"),
    (6, "answer = 84_262_656", "the whole encoder"),
    (6, "answer = 84_110_592", "never calls them"),
    (6, "answer = 57_461_760", "pos_embed is still in it"),
    (6, "answer = 57.31", "A whole number"),
    (6, "answer = 57_310_465", "leave out every parameter"),
    (7, FIRST + "-rate * G", "full fine-tuning"),
    (7, FIRST + "rate * scale**2 * G @ A.T @ A", "the sign"),
    (7, FIRST + "-rate * scale * G @ A.T @ A", "enters twice"),
    (7, FIRST + "-scale**2 * G @ A.T @ A", "`rate` is missing"),
    (7, FIRST + "-rate * scale * G @ A.T", "the shape of W"),
    (7, FIRST + "-rate * scale**2 * G @ A.T @ torch.linalg.inv(A @ A.T) @ A", "B starts at 0"),
    (4, TRAIN.format(**LOOP | {"freeze": "pass"}), "still gathers gradients"),
]
ALSO_RIGHT = [
    (
        1,
        "import numpy as np\n"
        + COUNT.format(**RIGHT | {"result": "np.int64(depth * copies * r * (inputs + rows))"}),
    ),
    (
        1,
        COUNT.format(
            **RIGHT
            | {"R": "(d + 15) // 16", "result": "float(sum([r * inputs + rows * r] * copies * depth))"}
        ),
    ),
    (
        2,
        ROWS + "full = torch.zeros_like(W)\n    full[start:start + len(B)] = scale * B @ A\n"
        "    return x @ (W + full).T",
    ),
    (
        2,
        ROWS + "y = torch.zeros(len(x), len(W))\n    y[:] = x @ W.T\n"
        "    y[:, start:start + len(B)] += scale * (x @ A.T) @ B.T\n    return y",
    ),
    (
        2,
        ROWS
        + "x, W, A, B = (t.double().numpy() for t in (x, W, A, B))\n    y = np.einsum('ni,oi->no', x, W)\n"
        "    for i in range(len(B)):\n        y[:, start + i] += scale * x @ (B[i] @ A)\n    return y",
    ),
    (
        3,
        LAYER.format(
            **PARTS
            | {
                "more": "nn.init.kaiming_uniform_(self.A, a=5**0.5)",
                "A": "nn.Parameter(torch.empty(r, base.in_features))",
                "forward": "update = self.scale * (x @ self.A.T) @ self.B.T; "
                "y = y + nn.functional.pad(update, (self.start, y.shape[-1] - self.stop))",
            }
        ),
    ),
    (
        3,
        LAYER.format(
            **PARTS
            | {
                "base": "base",
                "more": "[p.requires_grad_(False) for p in self.base.parameters()]",
                "forward": "y = torch.cat([y[..., :self.start], y[..., self.start:self.stop] + "
                "nn.functional.linear(nn.functional.linear(x, self.A), self.scale * self.B), "
                "y[..., self.stop:]], dim=-1)",
            }
        ),
    ),
    (
        4,
        TRAIN.format(
            **LOOP
            | {
                "optimizer": "",
                "loss": "nn.functional.mse_loss(layer(x), y)",
                "before": "losses.append(loss)",
                "step": "with torch.no_grad():\n            for p in trained: p -= rate * p.grad",
                "after": "for p in trained: p.grad = None",
            }
        ),
    ),
    (
        4,
        TRAIN.format(
            **LOOP
            | {
                "freeze": "for n, p in layer.named_parameters(): p.requires_grad_(n in ('A', 'B'))",
                "trained": "[p for p in layer.parameters() if p.requires_grad]",
                "before": "optimizer.zero_grad(); losses.append(loss.item())",
                "after": "pass",
                "result": "np.array(losses)",
            }
        ),
    ),
    (5, PAIR + "U[:, :r] * s[:r].sqrt(), s[:r, None].sqrt() * Vh[:r]"),
    (5, PAIR + "[(U[:, :r]).numpy(), (torch.diag(s[:r]) @ Vh[:r]).numpy()]"),
    (
        5,
        "def answer(target, r):\n    U, s, Vh = np.linalg.svd(target.double().numpy())\n"
        "    return U[:, :r] * s[:r][None, :] if r <= len(s) else np.pad(U[:, :len(s)] * s, "
        "((0, 0), (0, r - len(s)))), Vh[:r] if r <= len(Vh) else np.pad(Vh, ((0, r - len(Vh)), (0, 0)))",
    ),
    (6, "answer = np.int64(57_310_464)"),
    (6, "answer = torch.tensor(57_310_464)"),
    (7, FIRST + "-rate * scale * (scale * G @ A.T) @ A"),
    (
        7,
        "def answer(G, A, rate, scale):\n    B = torch.zeros(len(G), len(A), requires_grad=True)\n"
        "    W = scale * B @ A\n    (W * G).sum().backward()\n    return scale * (-rate * B.grad) @ A",
    ),
    (7, FIRST + "(-rate * scale**2 * G.numpy()) @ (A.T @ A).numpy()"),
    (
        3,
        LAYER.format(
            **PARTS
            | {
                "forward": "left, block, right = y.split(self.sizes(y), dim=-1)\n        "
                "y = torch.cat([left, block + self.scale * x @ self.A.T @ self.B.T, right], dim=-1)"
            }
        )
        + "    def sizes(self, y):\n"
        "        return [self.start, self.stop - self.start, y.shape[-1] - self.stop]\n",
    ),
]
