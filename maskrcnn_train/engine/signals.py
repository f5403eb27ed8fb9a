"""SIGINT and SIGTERM during a training, and submitit's SIGUSR2: finish the step, save, leave."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupted(BaseException):
    """A signal ended the training after a checkpoint. Not an Exception, as KeyboardInterrupt: it ends a sweep too.

    number: the signal's, exit_code: 128 + that; hint: how to continue.
    """

    def __init__(self, number: int, hint: str = "continue with resume=auto or resume=RUN_FOLDER") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
        self.exit_code = 128 + number
        self.hint = hint


class StopRequest:
    """Remembers the first signal; a second one leaves at once. A context manager: old handlers come back.

    Only the main thread gets signals: in another one this remembers none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGUSR2") and callable(signal.getsignal(signal.SIGUSR2)):
            numbers.append(signal.SIGUSR2)  # submitit's: a job's time is up
        for number in numbers:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
