"""One of two ranks meets a fault: both end within seconds, the state is saved, and one line says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

from maskrcnn_train.engine.checkpoint import read_checkpoint

FAULTS = {  # of rank 1 at its second step or its evaluation: where, its exit code, and what rank 0 says
    "out of memory": ("second backward", 2, "out of memory at step 1: images ["),
    "lost worker": ("second step", 2, "a process that loads images was killed"),
    "not implemented": ("second step", 1, "NotImplementedError: no kernel for this device"),
    "bug": ("evaluation", 1, "ValueError: zip()"),
    "SIGKILL": ("second step", -9, "another process was killed or cut off"),
}
LONGEST = 10.0  # seconds from the fault to the end of both
SETTINGS = [each for each in TINY if not each.startswith(("trainer.batch_size", "trainer.num_workers"))]
SETTINGS += ["trainer.batch_size=2", "trainer.num_workers=1", "trainer.max_steps=4", "trainer.distributed_timeout=1"]
SETTINGS += ["trainer.checkpoint_every=0", "trainer.evaluate_every=0"]


def plant(faults: list[str], shapes: str, folder: Path) -> Path:
    planted = ",".join(f"{FAULTS[fault][0]}/{fault}" for fault in faults)
    script = Path(__file__).parents[1] / "two_ranks.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder), planted, *SETTINGS, shapes]
    subprocess.run(command, env=environment, check=True, timeout=300)
    return folder


def test_a_process_that_runs_out_of_memory_ends_both_and_loses_no_step(shapes: str, tmp_path: Path) -> None:
    assert_both_ended("out of memory", plant(["out of memory"], shapes, tmp_path))


@pytest.fixture(scope="module")
def faults(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(list(FAULTS), shapes, tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_rank_ends_both_and_loses_no_step(fault: str, faults: Path) -> None:
    assert_both_ended(fault, faults)


def assert_both_ended(fault: str, faults: Path) -> None:
    phase, code, reason = FAULTS[fault]
    ended = json.loads((faults / fault / "ended.json").read_text())
    assert ended["codes"] == [2, code]
    assert ended["seconds"] < LONGEST
    assert ended["said"][0].startswith("error: ")
    assert reason in ended["said"][0]
    position = read_checkpoint(faults / fault / "run/checkpoints/last.pt")["position"]
    assert (position["step"], position["evaluating"]) == ((4, True) if phase == "evaluation" else (1, False))
    log = (faults / fault / "run/train.log").read_text()
    assert f"ERROR {ended['said'][0][7:]}" in log
    assert ("Traceback" in log) == (code == 1)
