"""Batches: collected by worker processes and handed to the model."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from maskrcnn_train.data.dataset import CocoDataset
from maskrcnn_train.data.order import EpochBatchSampler
from maskrcnn_train.data.packing import PackedBatch, pack
from maskrcnn_train.data.pixels import build_reader
from maskrcnn_train.data.processes import follow_main, holding_ctrl_c
from maskrcnn_train.data.splits.splitting import Split, Splits, read_splits
from maskrcnn_train.data.transforms import build_transform
from maskrcnn_train.settings.errors import LOST_WORKER, UserError, is_lost_worker
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import ImageBatch, ImageVersions, Target
from maskrcnn_train.structures.classes import ClassMap

logger = logging.getLogger(__name__)


@dataclass
class Loaders:
    """The loaders of a training, and its classes."""

    train: DetectionLoader
    val: DetectionLoader
    test: DetectionLoader | None
    classes: ClassMap

    def close(self) -> None:
        """End the processes that load images."""
        for loader in (self.train, self.val, self.test):
            if loader is not None:
                loader.close()


def build_loaders(config: TrainConfig, *, rank: int = 0, world_size: int = 1, splits: Splits | None = None) -> Loaders:
    """Loaders of (ImageBatch, list of targets) for this process out of `world_size`.

    `splits`: what `read_splits` returned, where it was called before. Raises UserError with one line for
    faulty data. Before each epoch call `loaders.train.set_epoch(epoch)`.
    """
    splits = splits or read_splits(config)
    build = partial(_build_loader, config, classes=splits.classes, rank=rank, world_size=world_size)
    test = None if splits.test is None else build(splits.test)
    return Loaders(build(splits.train, training=True), build(splits.val), test, splits.classes)


def evaluation_loader(config: TrainConfig, split: Split, classes: ClassMap) -> DetectionLoader:
    """One split in its own order, as the validation of a training sees it."""
    return _build_loader(config, split, classes)


class ScaledLoader:
    """One split at several network sizes: yields (ImageVersions, list of targets), targets in the first size.

    scales: shorter sides, network pixels; `data.max_size` grows and shrinks alike.
    """

    def __init__(self, config: TrainConfig, split: Split, classes: ClassMap, scales: Sequence[int]) -> None:
        self.loaders = []
        for scale in scales:
            longest = max(scale, round(config.data.max_size * scale / config.data.min_size))
            data = replace(config.data, min_size=scale, max_size=longest)
            self.loaders.append(evaluation_loader(replace(config, data=data), split, classes))
        self.dataset = self.loaders[0].dataset

    def __iter__(self) -> Iterator[tuple[ImageVersions, list[Target]]]:
        for batches in zip(*self.loaders, strict=True):
            yield ImageVersions([images for images, _ in batches]), batches[0][1]

    def __len__(self) -> int:
        return len(self.loaders[0])


def build_dataset(config: TrainConfig, split: Split, classes: ClassMap, *, training: bool) -> CocoDataset:
    """The images of a split as the model gets them; augmented in training."""
    dataset = CocoDataset(
        split=split,
        classes=classes,
        transform=build_transform(config.data, config.augmentation if training else None, config.numerics.pixel_mean),
        reader=build_reader(config.data),
        with_masks=config.mask_head.enabled,
        seed=config.seed,
        keep_empty=config.data.keep_empty or not training,
        skip_bad_images=config.data.on_bad_image == "skip",
        tile=config.data.tile,
    )
    if training and len(dataset) == 0:
        raise UserError("no training image has objects; train on the empty ones with data.keep_empty=true")
    if training and dataset.layout is not None and not len(dataset.layout.objects):
        what = f"no tile shows data.tile.min_visible={config.data.tile.min_visible} of an object"
        raise UserError(f"{what}; raise data.tile.size={config.data.tile.size}, or lower data.tile.min_visible")
    return dataset


def _build_loader(
    config: TrainConfig, split: Split, classes: ClassMap, *, training: bool = False, rank: int = 0, world_size: int = 1
) -> DetectionLoader:
    dataset = build_dataset(config, split, classes, training=training)
    own = dataset.share(rank, world_size)
    sampler: Sampler[list[Any]] = BatchSampler(own, config.evaluation.batch_size, drop_last=False)
    if training:
        sampler = EpochBatchSampler(
            wide=dataset.is_wide() if config.data.group_by_shape else np.zeros(len(dataset), dtype=bool),
            repeats=dataset.repeats(config.data.repeat_threshold),
            batch_size=config.trainer.batch_size,
            seed=config.seed,
            rank=rank,
            world_size=world_size,
        )
    on_gpu = torch.cuda.is_available() and config.trainer.device != "cpu"
    return DetectionLoader(dataset, sampler, num_workers=config.trainer.num_workers, pin_memory=on_gpu)


# ---------------------------------------------------------------- worker processes

NEEDS = (
    "a Python script whose processes load images must be a file and begin its work below `if __name__ == '__main__':`, "
    "or set num_workers=0 (a training: trainer.num_workers=0)"
)
LAST_SECONDS = 60  # that a worker lives on after a SIGTERM
GRACE_SECONDS = 2  # that it has for the end of its batch when the main process closes its loader


def start_worker(worker: int) -> None:
    """Leave signals to the main process, and one thread to each worker: they share the cores already.

    Terminals, `timeout` and SLURM signal every process of a group; the main one still needs its workers to end a step.
    """
    follow_main()
    if hasattr(signal, "SIGALRM"):  # Windows sends none of these; there torch alone ends its workers
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LAST_SECONDS))
        signal.signal(signal.SIGURG, lambda *_: signal.alarm(GRACE_SECONDS))
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    torch.set_num_threads(1)
    atexit.register(os._exit, 0)  # a spawned process would take torch apart, in more seconds than it has


class LostWorker(UserError):
    """A process that loads images is gone."""


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Turn the death of a loading process into LostWorker."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        failed = "with exit code" in f"{error} {error.__cause__}"  # as opposed to a signal
        raise LostWorker(f"a process that loads images ended, see above; {NEEDS}" if failed else LOST_WORKER) from error


def _require_shared_memory() -> None:
    """Raises UserError where no semaphore can be made: torch would leave a loader that is half made."""
    try:
        torch.multiprocessing.Lock()
    except OSError as error:
        raise UserError(f"no process that loads images can start ({error}): is /dev/shm full?") from error


class DetectionLoader(DataLoader[Any]):
    """Yields (ImageBatch, list of targets). bad_images: unreadable files met so far, and how often."""

    dataset: CocoDataset

    def __init__(
        self, dataset: CocoDataset, batches: Sampler[list[Any]], *, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        if num_workers > 0 and getattr(multiprocessing.current_process(), "_inheriting", False):
            raise UserError(NEEDS)  # in a process that loads images, which imports the script that started it
        super().__init__(
            dataset,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=pack,
            pin_memory=pin_memory,
            worker_init_fn=start_worker,
            persistent_workers=num_workers > 0,
        )
        self.bad_images: dict[str, int] = {}
        if num_workers > 0:
            close = weakref.WeakMethod(self.close)  # the loader may go before the exit
            atexit.register(lambda: (still_there := close()) and still_there())

    def set_epoch(self, epoch: int, start_batch: int = 0, percent: Callable[[int], int] | None = None) -> None:
        """Choose what is iterated next; has no effect on a loader in fixed order."""
        if isinstance(self.batch_sampler, EpochBatchSampler):
            self.batch_sampler.set_epoch(epoch, start_batch, percent)

    def __iter__(self) -> Iterator[tuple[ImageBatch, list[Target]]]:  # type: ignore[override]
        if self.num_workers > 0:
            _require_shared_memory()
        with naming_lost_workers():
            with holding_ctrl_c():
                batches = super().__iter__()
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                for fault in batch.faults if isinstance(batch, PackedBatch) else batch:
                    if fault not in self.bad_images:
                        logger.warning("skipped (data.on_bad_image=skip): %s", fault)
                    self.bad_images[fault] = self.bad_images.get(fault, 0) + 1
                if isinstance(batch, PackedBatch):
                    yield batch.unpack()

    def close(self) -> None:
        """End the worker processes within seconds; as the interpreter exits it would wait LAST_SECONDS for each."""
        workers = self._iterator
        if isinstance(workers, _MultiProcessingDataLoaderIter):
            for process in workers._workers:
                if hasattr(signal, "SIGURG") and process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGURG)  # without effect before its `start_worker`
            workers._shutdown_workers()
            self._iterator = None
