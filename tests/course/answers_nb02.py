"""Wrong answers to the exercises of notebook 02: (exercise, code, words of the message)."""

import math

import torch

SCOPE = {"math": math, "torch": torch}
HOLD = "def answer(A, B, delta):\n    a = math.exp(delta * A)\n    return "
ORDER = """
def answer(side):
    middle, tokens = side * side // 2, torch.arange(side * side + 1)
    square = torch.cat([tokens[:middle], tokens[middle + 1:]]).reshape(side, side)
    columns = square.T.flatten()
"""
JOINED = "    return torch.cat([columns[:middle], tokens[middle:middle + 1], columns[middle:]])"
COMBINE = "def answer(first, second):\n    (a1, b1), (a2, b2) = first, second\n    return "
WRONG = [
    (1, "def answer(A, delta):\n    return math.log(2) / (A * delta)", "a positive number"),
    (1, "def answer(A, delta):\n    return -1 / (A * delta)", "37 % is left"),
    (1, "def answer(A, delta):\n    return -math.log2(math.e) / (A * delta)", "yours holds log₂ e"),
    (1, "def answer(A, delta):\n    return -math.log(2) / A", "the step is missing"),
    (1, "def answer(A, delta):\n    return math.log(2) / delta", "the rate A is missing"),
    (1, "def answer(A, delta):\n    return -A * delta / math.log(2)", "other way round"),
    (1, "def answer(A, delta):\n    return -math.log(4) / (A * delta)", "then 25% of the state"),
    (2, "def answer(A, B, delta):\n    return 1 + delta * A, delta * B", "only its beginning"),
    (2, "def answer(A, B, delta):\n    return math.exp(-delta * A), delta * B", "the state grows"),
    (2, HOLD + "a, delta * B", "Mamba's shortcut"),
    (2, HOLD + "a, (1 - a) / A * B", "of the wrong sign"),
    (2, HOLD + "a, (a - 1) / A", "B does not enter"),
    (2, HOLD + "a, (1 - a) * B", "is the division by A right"),
    (2, HOLD + "a", "Return two numbers"),
    (3, ORDER + "    return columns", "all patches and the cls token"),
    (3, ORDER + "    return torch.cat([columns, tokens[middle:middle + 1]])", "the middle stays the middle"),
    (3, "def answer(side):\n    return torch.arange(side * side + 1)", "reads along the rows"),
    (3, ORDER + JOINED + ".flip(0)", "direction `_c_b`"),
    (
        3,
        ORDER + "    columns = torch.arange(side * side).reshape(side, side).T.flatten()\n" + JOINED,
        "more than once",
    ),
    (
        3,
        ORDER + "    snake = square.T.clone()\n    snake[1::2] = snake[1::2].flip(1)\n"
        "    columns = snake.flatten()\n" + JOINED,
        "each column from its top",
    ),
    (4, COMBINE + "(a1 + a2, a2 * b1 + b2)", "the decays multiply"),
    (4, COMBINE + "(a1 * a2, a1 * b2 + b1)", "the other order"),
    (4, COMBINE + "(a1 * a2, b1 + b2)", "fades in the second"),
    (4, COMBINE + "(a1 * a2, a1 * b1 + b2)", "where h = 0 ends"),
    (4, COMBINE + "(a1 * a2, 0.2 * b1 + b2)", "seven combined in a tree"),
    (4, COMBINE + "a1 * a2", "Return a pair"),
]
