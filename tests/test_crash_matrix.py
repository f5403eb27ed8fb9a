"""Some cells of the crash matrix; `python tests/crash_matrix.py` plays all of them."""

from __future__ import annotations

import importlib
import operator
import subprocess
import sys
from pathlib import Path

import pytest
from planted_fault import PHASES

MATRIX = Path(__file__).with_name("crash_matrix.py")


@pytest.mark.parametrize("phase", list(PHASES))
def test_the_function_that_begins_a_phase_is_there(phase: str) -> None:
    home, name, _ = PHASES[phase]
    assert callable(operator.attrgetter(name)(importlib.import_module(home)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        ("train", "first step", "SIGKILL"),
        ("train", "first step", "lost image"),
        ("train", "second step", "lost worker"),
        ("train", "checkpoint", "full disk"),
        ("train", "writing", "SIGKILL"),
        ("train", "report", "SIGTERM"),
        ("evaluate", "evaluation", "SIGINT"),
        ("predict", "evaluation", "full disk"),
        ("export", "export", "bug"),
        ("tune", "second step", "SIGTERM"),
        ("labels", "second step", "SIGKILL"),
        ("sweep", "evaluation", "bug"),
    ],
)
def test_a_fault_ends_as_it_must_and_the_command_goes_on(cell: tuple[str, str, str]) -> None:
    done = subprocess.run([sys.executable, str(MATRIX), *cell], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout
