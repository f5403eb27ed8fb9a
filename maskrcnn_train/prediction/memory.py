"""Too little memory, said in one line with what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from maskrcnn_train.settings.errors import UserError

BUDGETS = "rpn.nms.post_test or roi_head.detections_per_image"  # what most of the memory follows


@contextmanager
def naming_memory_faults(remedy: str) -> Iterator[None]:
    """Turn an allocation that fails inside, on a GPU or a CPU, into a UserError that ends with `remedy`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_gpu, on_cpu = type(error).__name__ == "OutOfMemoryError", "can't allocate memory" in str(error)  # torch's
        if not (isinstance(error, MemoryError) or on_gpu or on_cpu):
            raise
        raise UserError(f"out of memory; {remedy}") from error
