"""The end of one process ends all: it leaves its reason in the store of the group, where the others find it."""

from __future__ import annotations

import socket
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from maskrcnn_train.settings.errors import UserError, as_user_error, one_line

KEY = "reason"
POLL_SECONDS = 0.5  # between two looks of the thread that watches
PATIENCE = 2.0  # seconds that a reason may come later than the broken connection


class LostPeer(UserError):
    """Another process of this training has ended, and so must this one."""


class Alarm:
    """store: shared by all processes of the group, which outlives each of them. rank: of this process.

    heard: why another process ended, once `watching` has found out.
    """

    def __init__(self, store: Store, rank: int) -> None:
        self.store, self.rank = store, rank
        self.heard: str | None = None

    def ring(self, error: BaseException) -> None:
        """Tell the others why this process ends; the first to ring is heard."""
        if not isinstance(error, Exception):
            what = "stopped by a signal"
        elif (known := as_user_error(error)) is not None:
            what = one_line(known)
        else:
            what = f"{type(error).__name__}: {one_line(error)} (its traceback is in the run's train.log)"
        with suppress(RuntimeError):  # the process that keeps the store may be the one that ended
            self.store.compare_set(KEY, "", f"rank {self.rank} on {socket.gethostname()} ended: {what}")

    @property
    def reason(self) -> str | None:
        """Why a process ended, if one has."""
        try:
            return self.store.get(KEY).decode() if self.store.check([KEY]) else None
        except RuntimeError:
            return None

    def lost_peer(self, error: RuntimeError) -> LostPeer:
        """What to say instead of the error of a collective that the others did not finish."""
        late = time.monotonic() + PATIENCE
        while self.reason is None and time.monotonic() < late:
            time.sleep(0.05)
        text = textwrap.shorten(one_line(error), 160, placeholder="...")
        timed_out = "imed out" in text or "imeout" in text
        silent = "no answer from another process within trainer.distributed_timeout"
        return LostPeer(self.reason or f"{silent if timed_out else 'another process was killed or cut off'} ({text})")

    @contextmanager
    def watching(self, abort: Callable[[], None]) -> Iterator[None]:
        """Inside, call `abort` from a thread as soon as another process rings.

        Collectives of NCCL never notice that a process has gone; those of gloo do.
        """
        left = threading.Event()

        def poll() -> None:
            while not left.wait(POLL_SECONDS):
                self.heard = self.reason
                if self.heard is not None:
                    abort()
                    return

        thread = threading.Thread(target=poll, name="alarm", daemon=True)
        thread.start()
        try:
            yield
        finally:
            left.set()
            thread.join()


def is_of_group(error: RuntimeError) -> bool:
    """Whether a collective failed, rather than what this process does by itself."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
