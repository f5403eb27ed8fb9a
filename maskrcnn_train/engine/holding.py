"""A folder is held by one process at a time, by a lock that the system releases when the process dies."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from maskrcnn_train.settings.errors import UserError

PATIENCE = 100.0  # seconds: one that was stopped saves its state; an NFS server forgets a lost machine after 90
logger = logging.getLogger("maskrcnn_train")


@contextmanager
def held(folder: Path, lock: Path) -> Iterator[None]:
    """Hold a folder by the file `lock`, which says who does, and is gone afterwards unless this process is killed.

    Raises UserError where another process holds it for PATIENCE more. Where nothing can be locked, as on some
    network file systems, a warning.
    """
    mutex = FileLock(lock, fallback_to_soft=False)  # a soft one outlives a process that is killed
    try:
        _acquire(mutex, folder, lock)
    except OSError as error:
        logger.warning("%s cannot be locked (%s): see that no other process writes to %s", lock, error, folder)
    try:
        yield
    finally:
        if mutex.is_locked:
            with suppress(OSError):  # Windows removes no open file; left behind it does no harm
                lock.unlink()
            mutex.release()


def _acquire(mutex: FileLock, folder: Path, lock: Path) -> None:
    try:
        mutex.acquire(timeout=0)
    except Timeout:
        logger.warning("%s works in %s; waiting up to %.0f s for its end", _holder(lock), folder, PATIENCE)
        try:
            mutex.acquire(timeout=PATIENCE)
        except Timeout:
            raise UserError(
                f"{_holder(lock)} works in {folder}; wait for its end, or stop it (if it is gone, delete {lock})"
            ) from None
    with suppress(OSError):  # a full disk
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def _holder(lock: Path) -> str:
    with suppress(OSError):  # gone in this moment, or on Windows, where nobody else can read it
        return lock.read_text(encoding="utf-8").strip() or "another process"
    return "another process"
