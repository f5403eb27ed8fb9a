"""SIGINT and SIGTERM during a training: finish the step, save, leave."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupted(BaseException):
    """A signal ended the training after a checkpoint. Not an Exception, as KeyboardInterrupt: it ends a sweep too.

    exit_code: 128 + the signal's number; hint: how to continue.
    """

    def __init__(self, number: int, hint: str = "continue with resume=auto or resume=RUN_FOLDER") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number
        self.hint = hint


class StopRequest:
    """Remembers the first signal; a second one leaves at once. A context manager: old handlers come back."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
