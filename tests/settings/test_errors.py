"""Which errors are told in one line: those of the person, of the disk and of the memory; bugs are not."""

from __future__ import annotations

import errno

import pytest
import torch

from maskrcnn_train.settings.errors import as_user_error


def too_large() -> RuntimeError:
    """What torch raises on a processor."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    return caught.value


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried"), too_large()])
def test_too_little_memory_is_one_line(error: BaseException) -> None:
    said = str(as_user_error(error))
    assert said.startswith("out of memory (")
    assert said.endswith("lower the batch size or the size of the images")
    assert len(said) < 200


def test_a_full_disk_is_one_line_with_the_file_and_a_bug_is_none() -> None:
    assert str(as_user_error(OSError(errno.ENOSPC, "No space left", "last.pt"))) == "No space left: last.pt"
    for bug in (ValueError("zip"), RuntimeError("shapes differ"), OSError(errno.EPIPE, "Broken pipe")):
        assert as_user_error(bug) is None
