"""The same batches in the same order for any number of processes and threads.

An optimiser step takes `accumulation` batches. Every process draws the same ones and takes its own share
of each, so that two processes learn what one process learns from twice the batch size.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from emrrg_lib.files import InputError
from emrrg_lib.language.prompt import IGNORE

DRAWN, ASKED = "drawn", "asked"  # keys of a batch: its study numbers; whether it took a random number


def per_process(batch_size: int, parts: int) -> int:
    """The studies that a process takes at once of a global batch; parts: processes · accumulation.

    Raises InputError if the batch cannot be split evenly.
    """
    if batch_size % parts:
        raise InputError(
            f"a batch of {batch_size} cannot be split into {parts} parts (processes times "
            "accumulation); choose a multiple"
        )
    return batch_size // parts


class Share(list):
    """One process' study numbers of a batch.

    Attributes:
        first: the place of its first study in the whole batch.
        draw: the batch's random number, if it was drawn ahead. asked: whether a collator used it.
    """

    def __init__(self, numbers: Sequence[int], first: int = 0) -> None:
        super().__init__(numbers)
        self.first, self.draw, self.asked = first, None, False


def random_streams(seed: int, numbers: Sequence[int]) -> list[np.random.Generator]:
    """One random stream for each study of a batch, the same however the batch is shared out."""
    share = numbers if isinstance(numbers, Share) else Share(numbers)
    share.asked, draw = True, share.draw
    if draw is None:
        draw = int(torch.randint(2**31, ()))  # from the Trainer's stream, which a resumed run restores
    return [np.random.default_rng([seed, draw, share.first + row]) for row in range(len(share))]


def threads(collate: Callable, processes: int) -> int:
    """How many threads make batches while a GPU computes; 0 on a CPU, where training needs the cores.

    A collator with `ahead = True` may run in a thread: all that is random in it comes from `random_streams`.
    """
    if not (getattr(collate, "ahead", False) and torch.cuda.is_available()):
        return 0
    return max(1, min(8, (os.cpu_count() or 1) // processes))


class OwnTokenizer:
    """A copy of a tokenizer that several threads may call: one at a time, and nobody else has it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.lock = copy.deepcopy(tokenizer), Lock()

    def __enter__(self) -> PreTrainedTokenizerBase:
        self.lock.acquire()
        return self.tokenizer

    def __exit__(self, *error) -> None:
        self.lock.release()


class Batches(Sampler[list[int]]):
    """Places in the data set, batch by batch; each epoch is a new permutation of the seed.

    Args:
        length: of the data set. size: studies of a batch, over all processes.
        seed: with the epoch, makes the permutation.
        divisor: the last batch of an epoch is cut to a multiple of it.
    """

    def __init__(self, length: int, size: int, seed: int, divisor: int = 1) -> None:
        self.all, self.length, self.size = length, length - length % size % divisor, size
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The Trainer says which epoch is next, also when it resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.all, generator=generator).tolist()[: self.length]
        return (order[start : start + self.size] for start in range(0, self.length, self.size))


class ShareCollator:
    """Makes this process' share of a batch, at once or ahead in threads.

    A process whose share is empty takes the first study with all labels ignored: nothing is learnt from it.

    Args:
        collate: study numbers → batch. rank, processes: this process and how many there are.
    """

    def __init__(self, collate: Callable[[list[int]], dict], rank: int, processes: int) -> None:
        self.collate, self.rank, self.processes = collate, rank, processes
        self.count = threads(collate, processes)
        self.pool = ThreadPoolExecutor(self.count) if self.count else None

    def __call__(self, numbers: list[int]) -> dict | Future:
        start, stop = (len(numbers) * r // self.processes for r in (self.rank, self.rank + 1))
        mine = numbers[start:stop]
        share = Share(mine or numbers[:1], start)
        if self.pool is None:
            return self._batch(share, mine)
        share.draw = int(torch.randint(2**31, (), generator=self.stream))
        return self.pool.submit(self._batch, share, mine)

    def _batch(self, share: Share, mine: list[int]) -> dict:
        batch = dict(self.collate(share))
        if not mine:
            batch["labels"] = torch.full_like(batch["labels"], IGNORE)
        if self.pool:
            batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            batch[ASKED] = share.asked
        return batch | {DRAWN: mine}

    def in_order(self, made: Iterator[dict | Future]) -> Iterator[dict]:
        """The batches of an epoch. While one is used, threads make the next ones.

        Their random numbers come from a copy of torch's stream. The stream itself moves when a batch is
        handed out, so that a checkpoint holds the state that it has without threads.
        """
        if self.pool is None:
            yield from made
            return
        self.stream, waiting = torch.Generator().set_state(torch.get_rng_state()), deque()
        for future in made:
            waiting.append(future)
            if len(waiting) > self.count:
                yield self._hand_out(waiting.popleft())
        while waiting:
            yield self._hand_out(waiting.popleft())

    def _hand_out(self, future: Future) -> dict:
        batch = future.result()
        if batch.pop(ASKED):
            torch.randint(2**31, ())
        return batch

    def close(self) -> None:
        """Ends the threads; batches that nobody took are not made."""
        if self.pool:
            self.pool.shutdown(cancel_futures=True)


def study_names(numbers: Sequence[int], names: Sequence[str] | None) -> str:
    """The studies of a batch as part of a sentence: their names, or without names their numbers."""
    return ", ".join(names[n] if names else f"number {n}" for n in numbers)
