"""Too little memory, said in one line with what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

from maskrcnn_train.settings.errors import UserError, is_out_of_memory

BUDGETS = "rpn.nms.post_test or roi_head.detections_per_image"  # what most of the memory follows


@contextmanager
def naming_memory_faults(remedy: str) -> Iterator[None]:
    """Turn an allocation that fails inside, on a GPU or a CPU, into a UserError that ends with `remedy`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory; {remedy}") from error
