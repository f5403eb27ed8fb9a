"""Where the numbers of a run go: `metrics.jsonl`, and TensorBoard's event files beside it."""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_train.files import write_text

METRICS_FILE = "metrics.jsonl"


class MetricWriter:
    """Writes scalars, pictures and texts of one run; reopened on resume with `purge_step`.

    `purge_step` is the last step that counts: later lines of metrics.jsonl are dropped, and TensorBoard
    hides later events, since they will be written again. repeated: a metric whose line at that very step will be
    written again too. enabled: false on all ranks but one, which write nothing.

    >>> with MetricWriter(run_dir) as writer:                            # doctest: +SKIP
    ...     writer.scalars(20, {"loss/total": 1.2, "lr": 0.01})
    """

    def __init__(
        self, run_dir: Path | str, purge_step: int | None = None, *, repeated: str | None = None, enabled: bool = True
    ) -> None:
        self.run_dir = Path(run_dir)
        self.enabled = enabled
        if not enabled:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        path = self.run_dir / METRICS_FILE
        if purge_step is not None:
            kept = [line for line in read_metrics(path) if line["step"] <= purge_step - (repeated in line)]
            write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._lines = path.open("a", encoding="utf-8")
        self._report, threading.excepthook = threading.excepthook, self._unless_told_later
        self._events = _summary_writer(self.run_dir, None if purge_step is None else purge_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line {"step": ..., ...} and one event each; a value that is not finite is null in the line."""
        if not self.enabled:
            return
        plain = {key: float(value) for key, value in values.items()}
        line = {"step": int(step), **{key: value if math.isfinite(value) else None for key, value in plain.items()}}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        for key, value in plain.items():
            self._events.add_scalar(key, value, step)

    def picture(self, step: int, tag: str, image: Image.Image) -> None:
        if self.enabled:
            self._events.add_image(tag, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def text(self, tag: str, text: str) -> None:
        """Markdown, as TensorBoard shows it."""
        if self.enabled:
            self._events.add_text(tag, text)

    def settings(self, overrides: Sequence[str]) -> None:
        """A run's "key=value"s, as columns of TensorBoard's HParams, which finds its scores by itself."""
        if self.enabled:
            from torch.utils.tensorboard.summary import hparams

            values = {key: _number(value) for key, _, value in (text.partition("=") for text in overrides)}
            _, session, end = hparams(values, {})
            for part in (session, end):  # without the first, which would hide what other runs set
                self._events.file_writer.add_summary(part)

    def _unless_told_later(self, fault: threading.ExceptHookArgs) -> None:
        """An error of the thread that writes events comes up again at the next event, or in `close`."""
        if type(fault.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            self._report(fault)

    def close(self) -> None:
        if self.enabled:
            try:
                self._lines.close()
                self._events.close()
            finally:
                threading.excepthook = self._report

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _summary_writer(run_dir: Path, purge_step: int | None) -> Any:
    with warnings.catch_warnings():
        # tensorboard's own imports, on some versions of its dependencies
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(run_dir), purge_step=purge_step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, none where it is absent; one that a crash cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict) and type(line.get("step")) is int]
