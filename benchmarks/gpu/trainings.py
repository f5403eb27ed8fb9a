"""Short trainings, each a command of its own, as people start them."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from checks import TIMEOUT, Check, NotHere, expect, expect_same_weights, run_command
from place import ROOT, Place

from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.reporting.tensorboard import read_metrics


def tests_of_computing(place: Place) -> str:
    """The tests with the marker `gpu`, on the device; with small sizes a part of them."""
    chosen = (
        ["tests/model/test_fixed_shape.py", "tests/engine/test_precision.py"]
        if place.small
        else ["tests/model", "tests/engine"]
    )
    command = [sys.executable, "-m", "pytest", "-m", "gpu and not slow", "-p", "no:cacheprovider", *chosen]
    environment = {**place.environment, "MASKRCNN_TRAIN_TEST_DEVICE": place.device}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=2 * TIMEOUT)
    failed = re.findall(r"^FAILED \S+?::(\S+)", done.stdout, re.MULTILINE)
    last = (done.stdout.strip().splitlines() or [done.stderr])[-1]
    expect(done.returncode == 0, f"{last}: {', '.join(failed)}")
    return last


def bf16(place: Place) -> str:
    return _trained(place, "bf16")


def fp16(place: Place) -> str:
    if place.device == "cpu":
        raise NotHere("needs a GPU")
    return _trained(place, "fp16")


def deterministic(place: Place) -> str:
    """Two trainings end with the same losses and weights; one that SIGTERM stopped and that goes on does too."""
    exact = "trainer.deterministic=true"
    with ThreadPoolExecutor() as threads:  # each compiles for a while
        started = [threads.submit(_run, place, name, exact) for name in ("whole", "again")]
        stopped = threads.submit(_run, place, "stopped", exact, plant=("second step", "SIGTERM")).result()
        expect(stopped.returncode == 128 + signal.SIGTERM, f"stopped with {stopped.returncode}: {_end(stopped)}")
        step = _last(place.folder / "stopped")["position"]["step"]
        expect(0 < step < 4, f"stopped at step {step}")
        started.append(threads.submit(_run, place, "stopped", exact, "resume=auto"))
    for done in (future.result() for future in started):
        expect(done.returncode == 0, f"exit code {done.returncode}: {_end(done)}")
    whole, *others = (place.folder / name for name in ("whole", "again", "stopped"))
    for other in others:
        expect(_losses(whole) == _losses(other), f"losses {_losses(whole)} and {_losses(other)}")
        expect_same_weights(_last(whole)["model"], _last(other)["model"])
    return f"three times the losses {_losses(whole)} and the same weights, once after a stop at step {step}"


def out_of_memory(place: Place) -> str:
    """Memory that runs out in a backward pass ends a training in one line, with its state saved."""
    done = _run(place, "full", plant=("second backward", "out of memory"))
    said = _end(done)
    expect(done.returncode == 2, f"exit code {done.returncode}: {said}")
    expect(said.startswith("error: out of memory at step 1: images [") and "Traceback" not in done.stderr, said)
    step = _last(place.folder / "full")["position"]["step"]
    expect(step == 1, f"saved at step {step}")
    return f"{said[:60]}...; saved at step 1"


CHECKS: dict[str, Check] = {
    "tests of computing": tests_of_computing,
    "training in bf16": bf16,
    "training in fp16": fp16,
    "deterministic training, stopped and resumed": deterministic,
    "out of memory": out_of_memory,
}


def _trained(place: Place, precision: str) -> str:
    done = _run(place, precision, f"trainer.precision={precision}")
    expect(done.returncode == 0, f"exit code {done.returncode}: {_end(done)}")
    losses = _losses(place.folder / precision)
    expect(len(losses) == 4 and all(map(math.isfinite, losses)), f"losses {losses}")
    return f"losses {losses}"


def _run(
    place: Place, name: str, *settings: str, plant: tuple[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A training with the output folder `name`. plant: a phase and a fault of `tests/planted_fault.py`."""
    planted = [str(ROOT / "tests/planted_fault.py"), *plant, "maskrcnn_train"] if plant else ["-m", "maskrcnn_train"]
    command = [sys.executable, *planted, *place.training, f"output_dir={place.folder / name}", *settings]
    return run_command(place, command)


def _end(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a command printed."""
    return (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]


def _last(run: Path) -> dict[str, Any]:
    return read_checkpoint(run / "checkpoints/last.pt")


def _losses(run: Path) -> list[float]:
    return [round(float(line["loss/total"]), 4) for line in read_metrics(run / "metrics.jsonl") if "lr" in line]
