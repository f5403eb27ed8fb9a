"""What a person sees while it runs: a progress bar on a terminal, plain lines elsewhere, and a log file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

LOGGER = "maskrcnn_train"
SETTLED = 5.0  # seconds after which a speed is worth telling
LONG = 60.0  # seconds of work about which a person is told before


def setup_logging(log: Path | None = None, *, console: Console | None = None, enabled: bool = True) -> Console:
    """Send the project's messages to the console and, if given, to the file `log`; returns the console.

    Pass the console on to `Progress`, so that lines and the bar don't write over each other. Calling it
    again, as each job of a sweep does, replaces the handlers of the job before; a caller's own stay.
    enabled: false on all ranks but one, which stay silent.
    """
    console = console or Console(file=sys.stdout)
    logger = logging.getLogger(LOGGER)
    close_logging()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not enabled:
        _add_handler(logging.NullHandler())
        return console
    _add_handler(_console_handler(console))
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        file_handler = _LogFile(log, encoding="utf-8", errors="backslashreplace")
        file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _add_handler(file_handler)
    return console


@contextmanager
def logging_to(log: Path, *, enabled: bool = True) -> Iterator[Console]:
    """`setup_logging` while the context lasts. Afterwards messages go where they went before."""
    logger = logging.getLogger(LOGGER)
    level, propagate, handlers = logger.level, logger.propagate, _own_handlers()
    for handler in handlers:
        logger.removeHandler(handler)
    try:
        yield setup_logging(log, enabled=enabled)
    finally:
        close_logging()
        for handler in handlers:
            logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def close_logging() -> None:
    """Remove and close the project's handlers."""
    for handler in _own_handlers():
        logging.getLogger(LOGGER).removeHandler(handler)
        handler.close()


def _own_handlers() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger(LOGGER).handlers if handler.name == LOGGER]


def _add_handler(handler: logging.Handler) -> None:
    handler.name = LOGGER  # tells it from a caller's own
    logging.getLogger(LOGGER).addHandler(handler)


def _console_handler(console: Console) -> logging.Handler:
    if console.is_terminal:
        return RichHandler(console=console, show_path=False, highlighter=NullHighlighter(), log_time_format="%H:%M:%S")
    handler: logging.Handler = logging.StreamHandler(console.file)
    handler.setFormatter(_PlainFormatter())
    return handler


class _LogFile(logging.FileHandler):
    """Says once that a line could not be written, and writes no more: the disk is full, or the folder gone."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger(LOGGER).removeHandler(self)
        with suppress(OSError):  # the same one
            self.close()
        logging.getLogger(LOGGER).warning("no line more fits into %s: %s", Path(self.baseFilename).name, error)


class _PlainFormatter(logging.Formatter):
    """The message alone; from a warning on, with its level before it."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {message}"


class Progress:
    """A bar with its fields (loss, images/s, ...) and the time left, or a log line every `log_every` steps.

    A field `left` replaces the time left that is estimated here from steps and time alone. forecast: told as well.

    >>> with Progress("train", log_every=20) as progress:                # doctest: +SKIP
    ...     progress.update(step, total_steps, {"loss": 1.23, "images/s": 4.5, "data wait": "3 %"})
    """

    def __init__(
        self,
        description: str,
        *,
        log_every: int = 1,
        console: Console | None = None,
        enabled: bool = True,
        forecast: Forecast | None = None,
    ) -> None:
        self.description = description
        self.forecast = forecast
        self.log_every = log_every
        self.logger = logging.getLogger(LOGGER)
        self.enabled = enabled
        self._start: tuple[float, int] | None = None
        self._bar = _bar(console) if enabled and console is not None and console.is_terminal else None
        self._task = self._bar.add_task(description, total=None, fields="") if self._bar else None

    def update(self, step: int, total: int | None, fields: Mapping[str, float | str]) -> None:
        """Show that `step` of `total` is done. On a resumed run the first step seen is where time starts."""
        if not self.enabled:
            return
        now = time.monotonic()
        began, first = self._start = self._start or (now, step)
        if self.forecast is not None and total:
            self.forecast.update(step, total)
        words = {name: value if isinstance(value, str) else f"{value:.4g}" for name, value in fields.items()}
        if total and first < step < total:
            words.setdefault("left", duration((now - began) / (step - first) * (total - step)))
        text = "  ".join(f"{name} {value}" for name, value in words.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, total=total, fields=text)
        elif step % self.log_every == 0 or step == total:
            done = f"{step}/{total}" if total else str(step)
            self.logger.info("%s %s  %s", self.description, done, text)

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()


class Forecast:
    """One line that says how long something will take, as soon as its speed is known; none if it is soon done.

    what: is done to the images; why: added to the line, for what is slow because of a setting.
    """

    def __init__(self, what: str, why: str = "") -> None:
        self.what, self.why = what, why
        self._start: tuple[float, int] | None = None
        self._settled = False

    def update(self, done: int, total: int) -> None:
        """Told again and again how many of `total` images are done."""
        now = time.monotonic()
        began, first = self._start = self._start or (now, done)
        if self._settled or done == first or now - began < SETTLED:
            return
        self._settled = True
        an_image = (now - began) / (done - first)
        if an_image * total > LONG:
            text = "%s of %d images: about %s in all, %.2g s an image%s"
            why = f"; {self.why}" if self.why else ""
            logging.getLogger(LOGGER).info(text, self.what, total, duration(an_image * total), an_image, why)


def _bar(console: Console) -> RichProgress:
    numbers = TextColumn("{task.fields[fields]}", style="cyan")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), numbers)
    return RichProgress(*columns, console=console, refresh_per_second=4)


def duration(seconds: float) -> str:
    """Seconds in words: 45s, 3m 20s, 2h 05m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"
