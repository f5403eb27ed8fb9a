"""What a check is, and how one that fails is kept from stopping the others."""

from __future__ import annotations

import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from place import Place
from torch import Tensor

TIMEOUT = 200  # seconds of one command

Check = Callable[[Place], str]  # returns what was seen; raises where it is wrong


class NotHere(Exception):
    """The machine lacks what a check needs."""


@dataclass
class Result:
    """passed: None where the machine lacks what the check needs. seen: figures, or why it failed."""

    name: str
    passed: bool | None
    seconds: float
    seen: str


def result_of(name: str, check: Check, place: Place) -> Result:
    """Run a check. What it raises is a failure, with its traceback on the terminal."""
    began = time.perf_counter()
    passed: bool | None = True
    try:
        seen = check(place)
    except NotHere as missing:
        passed, seen = None, str(missing)
    except Exception as error:
        traceback.print_exc()
        passed, seen = False, f"{type(error).__name__}: {' '.join(str(error).split())}"
    result = Result(name, passed, time.perf_counter() - began, seen)
    print(f"{words(passed):8}{name}, {result.seconds:.0f} s: {seen}", flush=True)
    return result


def words(passed: bool | None) -> str:
    return {True: "passed", False: "FAILED", None: "not run"}[passed]


def expect(condition: bool, otherwise: str) -> None:
    """Like `assert`, with a message that says what was found."""
    if not condition:
        raise AssertionError(otherwise)


def expect_same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    differing = [name for name, weight in one.items() if not torch.equal(weight, other[name])]
    expect(not differing, f"{len(differing)} of {len(one)} layers differ, first {differing[:3]}")


def run_command(place: Place, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=place.environment, cwd=place.folder, capture_output=True, text=True, timeout=TIMEOUT
    )
