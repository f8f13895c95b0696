"""What the numba kernels share: fast arithmetic, and the way from tensors to arrays and threads.

Numba's cache on disk follows the file of a kernel, not this one: after a change here remove `__pycache__`.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numba import float32, int32, njit
from torch import Tensor

LOG2E, LN2 = np.float32(math.log2(math.e)), np.float32(math.log(2.0))
EXP2 = [np.float32(math.log(2.0) ** k / math.factorial(k)) for k in range(7)]  # Taylor series of 2^f
P0, P1, P2, P3, P4, P5, P6 = EXP2
FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"}


@njit(inline="always", fastmath=FAST)
def exp2(x):
    """2^x in float32 to 2 ulp for x in [-126, 127]: 2^k · p(f); plain arithmetic, so it vectorises."""
    x = min(max(x, float32(-126.0)), float32(127.0))
    k = int32(x + float32(127.5))  # exponent + 127, rounded: truncation of a positive number
    f = x - (float32(k) - float32(127.0))
    p = ((((P6 * f + P5) * f + P4) * f + P3) * f + P2) * f
    return ((p + P1) * f + P0) * np.int32(k << 23).view(np.float32)


@njit(inline="always", fastmath=FAST)
def sigmoid(x):
    return float32(1.0) / (float32(1.0) + exp2(-x * LOG2E))


@njit(fastmath=FAST)
def copy(source, target):
    for d in range(len(source)):
        target[d] = source[d]


def rows(tensor: Tensor) -> np.ndarray:
    """float32, the last two axes swapped; no copy where the memory is token-major already."""
    return tensor.detach().float().transpose(-1, -2).contiguous().numpy()


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().contiguous().numpy()


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32)


def use_torch_threads() -> None:
    """Gives numba as many threads as PyTorch may use, so that one setting governs both."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch.get_num_threads() != threads:  # numba's start sets OpenMP to all cores, and PyTorch obeys it
        torch.set_num_threads(threads)
