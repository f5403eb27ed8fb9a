"""Which images in which order: the batches of an epoch for each process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Random batches of (epoch, position), the same for every run with this seed and epoch.

    Wide and tall images do not share a batch, as far as whole batches go: less padding. Every process gets
    equally many batches; the last may be smaller, and repeats an image only where a process would have none.
    """

    def __init__(
        self, *, wide: NDArray[np.bool_], batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.wide = wide
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch to iterate next, without its first `start_batch` batches (for resuming)."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch for this process."""
        return -(-len(self.wide) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._batches()[self.start_batch :]:
            yield [(self.epoch, position) for position in batch[self.rank :: self.world_size].tolist()]

    def _batches(self) -> list[NDArray[np.int64]]:
        """Positions of each batch of all processes together."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.wide))
        size = self.batch_size * self.world_size
        whole: list[NDArray[np.int64]] = []
        rest: list[NDArray[np.int64]] = []
        for group in (order[self.wide[order]], order[~self.wide[order]]):
            end = len(group) - len(group) % size
            whole += [group[start : start + size] for start in range(0, end, size)]
            rest.append(group[end:])
        left = np.concatenate(rest)
        if len(left) >= size:
            whole.append(left[:size])
            left = left[size:]
        batches = [whole[i] for i in rng.permutation(len(whole)).tolist()]
        if len(left):
            batches.append(left if len(left) >= self.world_size else np.resize(left, self.world_size))
        return batches


class SequentialBatchSampler(Sampler[list[int]]):
    """Positions in order, each in one process only."""

    def __init__(self, *, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.positions = list(range(length))[rank::world_size]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.positions), self.batch_size):
            yield self.positions[start : start + self.batch_size]
