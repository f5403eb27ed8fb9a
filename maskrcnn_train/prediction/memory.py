"""Too little memory, said in one line with what to lower."""

from contextlib import AbstractContextManager

from maskrcnn_train.settings.errors import UserError, naming_memory_faults

BUDGETS = "rpn.nms.post_test or roi_head.detections_per_image"  # what most of the memory follows


def advising_on_memory(remedy: str) -> AbstractContextManager[None]:
    """Turn an allocation that fails inside into a UserError that ends with `remedy`."""
    return naming_memory_faults(lambda: UserError(f"out of memory; {remedy}"))
