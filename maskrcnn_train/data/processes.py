"""Processes that work for this one: they leave Ctrl-C to it while they start, and do not outlive it."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def holding_ctrl_c() -> Iterator[None]:
    """Keep SIGINT from processes that start inside until their `follow_main`: some import torch first, for seconds.

    The other threads of this process get it as ever.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_main() -> None:
    """In a new process: ignore SIGINT, even one that was held, and end within a second of the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_with_main, daemon=True).start()


def _end_with_main() -> None:
    """The main process may be gone without a word, and this one hold its terminal."""
    main, above = multiprocessing.parent_process(), os.getppid()
    assert main is not None
    # above a process of a fork server is that server; of a forked one, later forks keep the sentinel open
    while main.is_alive() and os.getppid() == above:
        time.sleep(1)
    os._exit(0)
