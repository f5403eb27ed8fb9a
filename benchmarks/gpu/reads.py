"""How often the host waits for the device in a training step and in a detection of two images."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from checks import Check, expect
from launches import counted
from place import Place
from steps import Ours, Step, load

from maskrcnn_train.model.paths import always_fixed
from maskrcnn_train.structures import waits

IMAGES = 2
TRAINING, DETECTION = 3, 2 + IMAGES  # as docs/gpus.md has them
WARNING = "called a synchronizing CUDA operation"
MORE_ROUNDS = 2  # suppression that takes long looks again


def waits_of_a_step(place: Place) -> str:
    return _expect_few(place, Ours(place, always_fixed)(load(place, IMAGES)), TRAINING + MORE_ROUNDS)


def waits_of_detection(place: Place) -> str:
    return _expect_few(place, Ours(place, always_fixed).detection(load(place, IMAGES)), DETECTION + MORE_ROUNDS)


CHECKS: dict[str, Check] = {"waits of a training step": waits_of_a_step, "waits of a detection": waits_of_detection}


def _expect_few(place: Place, step: Step, most: int) -> str:
    found = waits_on_gpu(step) if place.device == "cuda" else counted(step).waits
    seen = f"{found.total()} waits for {IMAGES} images ({', '.join(f'{n} {what}' for what, n in found.items())})"
    expect(found.total() <= most, f"{seen}; {most} are the most that was expected")
    return seen


def waits_on_gpu(step: Step) -> Counter[str]:
    """Of the second call of `step`: reads that are meant, and what torch's debug mode warns of."""
    step()
    torch.cuda.synchronize()
    found: Counter[str] = Counter()
    read_later = waits.read_later

    def counting(numbers: Any) -> Any:
        found["reads that are meant"] += 1
        return read_later(numbers)

    with warnings.catch_warnings(record=True) as caught, patch.object(waits, "read_later", counting):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with _stderr() as lines:
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for each in caught:
        if WARNING in str(each.message):
            found[f"{each.filename.rpartition('/')[2]}:{each.lineno}"] += 1
    operators = sum(WARNING in line for line in lines)
    return found + Counter({"in operators of torchvision": operators} if operators else {})


@contextmanager
def _stderr() -> Iterator[list[str]]:
    """The lines that C++ writes to stderr, where operators warn that Python did not call."""
    lines: list[str] = []
    with tempfile.TemporaryFile("w+") as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.readlines()
