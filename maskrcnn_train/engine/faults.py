"""Faults of the machine in mid-training, each said in one line that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from maskrcnn_train.engine.step import Batch
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.batch import ImageBatch


class OutOfMemory(UserError):
    """A step needs more memory than there is. Says which images, and what to lower."""


@contextmanager
def naming_memory_faults(batches: list[Batch], step: int) -> Iterator[None]:
    """Turn an allocation that fails inside into OutOfMemory; the weights are as before the step."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(f"out of memory at step {step}: {_describe(batches)}. {REMEDY}") from error


REMEDY = (
    "Lower trainer.batch_size (with trainer.accumulate the result stays alike), data.min_size and data.max_size, "
    "rpn.nms.post_train or roi_head.sampling.batch_size"
)


def _describe(batches: list[Batch]) -> str:
    images, targets = zip(*batches, strict=True)
    sizes = [f"{each.pixels.shape[3]} x {each.pixels.shape[2]}" for each in images if isinstance(each, ImageBatch)]
    ids = [target.get("image_id") for each in targets for target in each]
    objects = [len(target["boxes"]) for each in targets for target in each]
    return f"images {ids} with {objects} objects, {', '.join(sizes)} pixels with padding"
