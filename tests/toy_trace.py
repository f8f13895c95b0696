"""A trace of random numbers that keeps every rule, for tests of all that reads traces."""

from __future__ import annotations

import numpy as np

from emrrg_lib.trace import Trace

TOKENS = (" The", " heart", " is", " en", "larged", ".", " No", " eff", "us", "ion", ".", "</s>")
REPORT = "The heart is enlarged. No effusion."


def make_trace(tokens=TOKENS, layers=2, heads=3, views=2, grid=(4, 5), seed=0, **changes) -> Trace:
    """Random gates and attention with the fields in `changes` replaced."""
    rng = np.random.default_rng(seed)
    attention = rng.random((layers, heads, len(tokens), views, grid[0] * grid[1]))
    attention /= 1.1 * attention.sum(axis=(3, 4), keepdims=True)
    fields = {
        "tokens": tokens,
        "gate": np.tanh(rng.normal(size=(layers, len(tokens)))) * 0.3,
        "attention": attention,
        "grid": grid,
        "layer_ids": tuple(range(0, 6 * layers, 6)),
        "warm_up": np.full(layers, 0.3),
    }
    return Trace(**{**fields, **changes})
