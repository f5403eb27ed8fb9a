"""`UserError`, the only error told in one line, and the faults of a disk that become one."""

import errno
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# a full disk, missing permissions, a broken disk: never a bug of ours
DISK_FAULTS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE,
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ESTALE,
}  # fmt: skip


class UserError(ValueError):
    """A mistake of the person, or a fault of their data or machine: what is wrong, where, and what to do, in one line.

    Commands print it and exit with code 2. Every other error is a bug of ours and keeps its traceback.
    """


def as_user_error(error: BaseException) -> UserError | None:
    """The error to show to the person; None for a bug of ours."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in DISK_FAULTS:
        return UserError(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    if is_lost_worker(error):
        return UserError(LOST_WORKER)
    if is_out_of_memory(error):
        reason = textwrap.shorten(str(error), 120, placeholder="...") or type(error).__name__
        return UserError(f"out of memory ({reason}); lower the batch size or the size of the images")
    return None


LOST_WORKER = (
    "a process that loads images was killed, most often by the system for want of memory; lower num_workers "
    "or data.max_size (a training: trainer.num_workers, and it goes on with resume=auto)"
)


def is_lost_worker(error: BaseException) -> bool:
    """Whether a process that loads images is gone: torch's signal handler may raise it anywhere."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


# of torch on a processor, of CUDA, cuBLAS and cuDNN; all are RuntimeErrors without a class of their own
FAILED_ALLOCATIONS = ("can't allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED", "_ALLOCATION_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch, on a GPU or a processor, could not allocate memory. Does not import torch.

    Not so where a collective failed: its group is of no use any more.
    """
    of_torch = type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in FAILED_ALLOCATIONS)
    of_group = type(error).__name__ == "DistBackendError"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_torch and not of_group)


@contextmanager
def naming_memory_faults(fault: Callable[[], UserError]) -> Iterator[None]:
    """Turn an allocation that fails inside, on a GPU or a CPU, into the error that `fault` makes."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise fault() from error


def first_line(error: BaseException) -> str:
    """The first line of the message; the kind of the error where it has none, as MemoryError and assert."""
    return str(error).split("\n", 1)[0] or type(error).__name__


def one_line(error: BaseException) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split())
