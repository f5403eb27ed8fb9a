"""A folder is held by one process at a time, by a lock that the system releases when the process dies.

Not by `filelock`: many of its versions empty the file, which says who holds it, before they ask for the lock, and take
a file system without locks for another holder, or put a file there that stays when its process is killed.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from maskrcnn_train.settings.errors import UserError

PATIENCE = 100.0  # seconds: one that was stopped saves its state; an NFS server forgets a lost machine after 90
POLL_SECONDS = 0.1  # between two tries
logger = logging.getLogger("maskrcnn_train")


@contextmanager
def held(folder: Path, lock: Path) -> Iterator[None]:
    """Hold a folder by the file `lock`, which says who does, and is gone afterwards unless this process is killed.

    Raises UserError where another process holds it for PATIENCE more. Where nothing can be locked, as on some
    network file systems, a warning.
    """
    file = None
    try:
        file = _locked(lock, folder)
    except (OSError, ImportError) as error:  # the latter on Windows
        logger.warning("%s cannot be locked (%s): see that no other process writes to %s", lock, error, folder)
    try:
        yield
    finally:
        if file is not None:
            _release(file, lock)


def _locked(lock: Path, folder: Path) -> TextIO:
    """The open file, once this process has it."""
    import fcntl  # not there on Windows

    until, told = time.monotonic() + PATIENCE, False
    while True:
        with ExitStack() as closing:
            file = closing.enter_context(lock.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                said = f"{file.read().strip() or 'another process'} works in {folder}"
                if time.monotonic() > until:
                    raise UserError(f"{said}; wait for its end, or stop it (if it is gone, delete {lock})") from None
                if not told:
                    logger.warning("%s; waiting up to %.0f s for its end", said, PATIENCE)
                told = True
                time.sleep(POLL_SECONDS)
                continue
            if os.fstat(file.fileno()).st_nlink > 0:  # else its holder has just removed it
                file.truncate(0)
                print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
                closing.pop_all()
                return file


def _release(file: TextIO, lock: Path) -> None:
    import fcntl

    with file, suppress(OSError):  # all that was to be written is there, and the end of the process releases it too
        lock.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough: loading processes have the file open as well
