"""The same batches in the same order for any number of processes.

An optimiser step takes `accumulation` batches. Every process draws the same ones and takes its own share
of each, so that two processes learn what one would at twice the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from ..language.prompt import IGNORE

DRAWN = "drawn"  # key of a batch: the study numbers it was made of


class Share(list):
    """One process' study numbers of a batch; `first` is the place of its first study in the whole batch."""

    def __init__(self, numbers: Sequence[int], first: int = 0) -> None:
        super().__init__(numbers)
        self.first = first


def random_streams(seed: int, numbers: Sequence[int]) -> list[np.random.Generator]:
    """One random stream for each study of a batch, the same however the batch is shared out."""
    draw = int(torch.randint(2**31, ()))  # from the Trainer's stream, which a resumed run restores
    first = numbers.first if isinstance(numbers, Share) else 0
    return [np.random.default_rng([seed, draw, first + row]) for row in range(len(numbers))]


class Batches(Sampler[list[int]]):
    """Places in the data set, batch by batch; each epoch is a new permutation of the seed.

    Args:
        length: of the data set. size: studies of a batch, over all processes.
        seed: with the epoch, makes the permutation.
        divisor: the last batch of an epoch is cut to a multiple of it.
    """

    def __init__(self, length: int, size: int, seed: int, divisor: int = 1) -> None:
        self.length, self.size, self.seed, self.epoch = length - length % size % divisor, size, seed, 0
        self.all = length

    def set_epoch(self, epoch: int) -> None:
        """The Trainer says which epoch is next, also when it resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.all, generator=generator).tolist()[:self.length]
        return (order[start:start + self.size] for start in range(0, self.length, self.size))


class ShareCollator:
    """Makes this process' share of a batch; without a study of its own, one of which nothing is learnt.

    Args:
        collate: study numbers → batch. rank, processes: this process and how many there are.
    """

    def __init__(self, collate: Callable[[list[int]], dict], rank: int, processes: int) -> None:
        self.collate, self.rank, self.processes = collate, rank, processes

    def __call__(self, numbers: list[int]) -> dict:
        start, stop = (len(numbers) * r // self.processes for r in (self.rank, self.rank + 1))
        mine = numbers[start:stop]
        batch = dict(self.collate(Share(mine or numbers[:1], start)))
        if not mine:
            batch["labels"] = torch.full_like(batch["labels"], IGNORE)
        return batch | {DRAWN: mine}


def study_names(numbers: Sequence[int], names: Sequence[str] | None) -> str:
    """The studies of a batch as words of a sentence: by name where there are names, else by number."""
    return ", ".join(names[n] if names else f"number {n}" for n in numbers)
