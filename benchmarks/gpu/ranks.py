"""Two processes that train as one: on two GPUs, or on a processor."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import torch
from checks import Check, NotHere, expect, expect_same_weights, run_command
from place import ROOT, Place

from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.reporting.tensorboard import read_metrics

LONGEST = 30  # seconds from a fault to the end of both
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
TORCHRUN += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
FAULTS = {"out of memory": ("second backward", 2), "SIGKILL": ("second step", -9)}  # where, and rank 1's exit code


def equal_weights(place: Place) -> str:
    """Both end with the same weights, though one had no objects for a while."""
    _need_two(place)
    folder = place.folder / "equal"
    folder.mkdir()
    settings = [*place.training, "backbone.norm=group"]
    settings += ["trainer.batch_size=2", "trainer.max_steps=10"]
    script = [str(ROOT / "tests/train_and_keep.py"), str(folder)]
    _succeed(place, [*TORCHRUN, *script, *settings, f"output_dir={folder / 'run'}"])
    first, second = (torch.load(folder / f"rank{rank}.pt", map_location="cpu", weights_only=True) for rank in (0, 1))
    expect_same_weights(first, second)
    return f"{len(first)} layers after 10 steps"


def scaling(place: Place) -> str:
    """How many more images a second two processes train on than one."""
    _need_two(place)
    one = _images_per_second(place, "alone", [sys.executable])
    two = _images_per_second(place, "together", TORCHRUN)
    return f"{two:.1f} images/s with two, {one:.1f} with one: {two / one:.2f} times as many"


def fault_on_one(place: Place) -> str:
    """A fault of one process ends both within seconds, in one line, with the state saved."""
    _need_two(place)
    folder = place.folder / "faults"
    folder.mkdir()
    planted = ",".join(f"{phase}/{fault}" for fault, (phase, _) in FAULTS.items())
    settings = [*place.training, "trainer.batch_size=2", "trainer.checkpoint_every=0", "trainer.distributed_timeout=1"]
    _succeed(place, [sys.executable, str(ROOT / "tests/two_ranks.py"), str(folder), planted, *settings])
    return "; ".join(_expect_end(folder / fault, fault, code) for fault, (_, code) in FAULTS.items())


CHECKS: dict[str, Check] = {
    "two processes, equal weights": equal_weights,
    "two processes, scaling": scaling,
    "two processes, a fault on one": fault_on_one,
}


def _need_two(place: Place) -> None:
    if place.device == "cuda" and torch.cuda.device_count() < 2:
        raise NotHere("needs two GPUs")


def _succeed(place: Place, command: list[str]) -> None:
    done = run_command(place, command)
    expect(done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}")


def _images_per_second(place: Place, name: str, launcher: list[str]) -> float:
    """Of a training: the median over its log lines after the first."""
    steps, every, workers = (3, 1, 0) if place.small else (40, 10, 4)
    settings = place.training if place.small else [*place.benchmark, "backbone.norm=batch"]
    settings += [f"trainer.max_steps={steps}", f"trainer.log_every={every}", f"trainer.num_workers={workers}"]
    settings += ["trainer.batch_size=2", "trainer.epochs=100", "trainer.evaluate_every=0", "trainer.checkpoint_every=0"]
    settings += ["evaluation.study=false", "evaluation.pictures=0"]
    _succeed(place, [*launcher, "-m", "maskrcnn_train", *settings, f"output_dir={place.folder / name}"])
    lines = [line for line in read_metrics(place.folder / name / "metrics.jsonl") if "lr" in line]
    return statistics.median(float(line["images_per_second"]) for line in lines[1:])


def _expect_end(folder: Path, fault: str, code: int) -> str:
    ended = json.loads((folder / "ended.json").read_text())
    expect(ended["codes"] == [2, code], f"{fault}: {ended}")
    expect(ended["seconds"] < LONGEST, f"{fault}: {ended}")
    step = read_checkpoint(folder / "run/checkpoints/last.pt")["position"]["step"]
    expect(step == 1, f"{fault}: saved at step {step}")
    return f"{fault}: both ended after {ended['seconds']:.1f} s"
