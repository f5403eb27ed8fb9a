"""The batches of an epoch for each process: which images, in which order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from maskrcnn_train.settings.schema import AugmentationConfig
from maskrcnn_train.structures.arrays import Flags, Floats, Ints


def percent_of_size(section: AugmentationConfig, progress: float) -> int:
    """Progressive resizing: the size of images at this progress of a training, 0..1, in percent of the full size."""
    grown = min(1.0, progress / section.full_size_from)
    return round(100 * (section.start_scale + (1 - section.start_scale) * grown))


@dataclass(eq=False, kw_only=True)
class EpochBatchSampler(Sampler[list[tuple[int, ...]]]):
    """Random batches of (epoch, position), the same for every run with this seed and epoch.

    Whole batches hold only wide or only tall images, which saves padding. Every process gets the same number of
    batches; the last may be smaller, and repeats an image only if a process would have none.
    wide: bool [n], which images are wide. repeats: float [n], how often each image comes in an epoch on average; None:
    once each. All epochs have the same length; the repeats of an image in an epoch are (epoch, position, 1),
    (epoch, position, 2) ... While images are smaller, keys are (epoch, position, repeat, percent of the full size).
    """

    wide: Flags
    batch_size: int
    seed: int
    repeats: Floats | None = None
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    start_batch: int = 0
    percent: Callable[[int], int] | None = None

    def set_epoch(self, epoch: int, start_batch: int = 0, percent: Callable[[int], int] | None = None) -> None:
        """Choose the next epoch, without its first `start_batch` batches (for resuming).

        percent: of the full size that the images of this batch of the epoch have, asked when it is drawn; None: 100.
        """
        self.epoch, self.start_batch, self.percent = epoch, start_batch, percent

    @property
    def num_images(self) -> int:
        """Images of an epoch, repeats included."""
        return len(self.wide) if self.repeats is None else round(float(self.repeats.sum()))

    def __len__(self) -> int:
        """Batches of a whole epoch for this process."""
        return -(-self.num_images // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        positions = self._draw_positions(rng)
        repeat = np.arange(len(positions)) - np.searchsorted(positions, positions)  # 7 7 7 9 -> 0 1 2 0
        batches = self._batches(self.wide[positions], rng)
        for batch in range(self.start_batch, len(batches)):
            own = batches[batch][self.rank :: self.world_size]
            pairs = zip(positions[own].tolist(), repeat[own].tolist(), strict=True)
            percent = 100 if self.percent is None else self.percent(batch)
            if percent < 100:
                yield [(self.epoch, position, number, percent) for position, number in pairs]
            else:
                yield [(self.epoch, position, number)[: 3 if number else 2] for position, number in pairs]

    def _draw_positions(self, rng: np.random.Generator) -> Ints:
        """The images of an epoch, sorted: int64 [num_images]."""
        if self.repeats is None:
            return np.arange(len(self.wide))
        # one random number rounds all: each image comes floor or ceil of its average times, and the sum is kept
        ends = np.cumsum(self.repeats) * (self.num_images / self.repeats.sum())
        ends[-1] = self.num_images
        counts = np.diff(np.floor(ends + rng.random()), prepend=0.0)
        return np.repeat(np.arange(len(self.wide)), counts.astype(np.int64))

    def _batches(self, wide: Flags, rng: np.random.Generator) -> list[Ints]:
        """For each batch of all processes together, its rows in `wide`."""
        order = rng.permutation(len(wide))
        size = self.batch_size * self.world_size
        groups = order[wide[order]], order[~wide[order]]
        ends = [len(group) - len(group) % size for group in groups]
        whole = [group[i : i + size] for group, end in zip(groups, ends, strict=True) for i in range(0, end, size)]
        left = np.concatenate([group[end:] for group, end in zip(groups, ends, strict=True)])
        if len(left) >= size:
            whole, left = [*whole, left[:size]], left[size:]
        batches = [whole[i] for i in rng.permutation(len(whole)).tolist()]
        if len(left):
            batches.append(left if len(left) >= self.world_size else np.resize(left, self.world_size))
        return batches
