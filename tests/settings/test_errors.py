"""Which errors are told in one line: those of the person, of the disk and of the memory; bugs are not."""

from __future__ import annotations

import errno

import pytest
import torch
import torch.distributed as dist

from maskrcnn_train.settings.errors import UserError, as_user_error, naming_memory_faults


def too_large() -> RuntimeError:
    """What torch raises on a processor."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    return caught.value


FULL = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried"),
    too_large(),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
)
OTHERS = (  # all of them RuntimeErrors; after the first two the GPU or the group is of no use
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    dist.DistBackendError("NCCL error: unhandled cuda error. Cuda failure 2 'CUDA error: out of memory'"),
    NotImplementedError("Could not run 'torchvision::nms' with arguments from the 'CUDA' backend"),
)


@pytest.mark.parametrize("error", OTHERS)
def test_no_other_error_of_a_gpu_is_taken_for_too_little_memory(error: RuntimeError) -> None:
    assert as_user_error(error) is None
    with pytest.raises(type(error)), naming_memory_faults(lambda: UserError("full")):
        raise error


@pytest.mark.parametrize("error", FULL)
def test_too_little_memory_is_one_line(error: BaseException) -> None:
    said = str(as_user_error(error))
    assert said.startswith("out of memory (")
    assert said.endswith("lower the batch size or the size of the images")
    assert len(said) < 200


def test_a_full_disk_is_one_line_with_the_file_and_a_bug_is_none() -> None:
    assert str(as_user_error(OSError(errno.ENOSPC, "No space left", "last.pt"))) == "No space left: last.pt"
    for bug in (ValueError("zip"), RuntimeError("shapes differ"), OSError(errno.EPIPE, "Broken pipe")):
        assert as_user_error(bug) is None
