"""Kill a training with SIGKILL at random moments, over and over; nothing may be lost.

Each sitting resumes the run, and is killed a random time after its first step, while it trains or writes a checkpoint.
Counts: states that cannot be read, runs that cannot go on, resumes further back than one checkpoint interval. In the
end the weights must equal those of a run that was never disturbed, to the last bit.

    python benchmarks/soak.py [--kills 60]
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.reporting.tensorboard import read_metrics

INTERVAL = 2  # steps between checkpoints
LONGEST = 2.0  # seconds from the first new step to the kill
SETTINGS = [
    "experiment=shapes",
    "data.shapes.num_train=16",
    "data.shapes.num_val=2",
    "data.shapes.num_test=1",
    "data.shapes.image_size=64",
    "data.min_size=64",
    "data.max_size=64",
    "backbone.fpn_channels=32",
    "trainer.batch_size=4",
    "trainer.num_workers=1",
    "trainer.max_minutes=null",
    "trainer.precision=fp32",
    "trainer.log_every=1",
    "trainer.interval_unit=step",
    f"trainer.checkpoint_every={INTERVAL}",
    "schedule=constant",  # the learning rate must not depend on where the training ends
    "schedule.warmup_steps=0",
    "evaluation.pictures=0",
]


def last_logged(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0
    return max((int(line["step"]) for line in read_metrics(path) if "lr" in line), default=0)


def start(folder: Path, root: Path, steps: int, log: Path) -> subprocess.Popen[bytes]:
    arguments = [*SETTINGS, f"data.root={root}", f"trainer.max_steps={steps}", f"output_dir={folder}", "resume=auto"]
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "maskrcnn_train", *arguments], stdout=file, stderr=file, start_new_session=True
        )


def sitting(folder: Path, root: Path, steps: int, log: Path) -> str | None:
    """One start and one kill; what went wrong (None: nothing)."""
    before = last_logged(folder)
    process = start(folder, root, steps, log)
    resumed = None
    while process.poll() is None:
        match = re.search(r"resumed .* at step (\d+)", log.read_text())
        resumed = int(match[1]) if match else resumed
        if last_logged(folder) > before or (
            resumed is not None and before - resumed > 0 and last_logged(folder) >= before
        ):
            time.sleep(random.uniform(0, LONGEST))
            break
        time.sleep(0.02)
    if process.poll() not in (None, 0):
        return f"ended with {process.returncode}: {log.read_text().splitlines()[-1:]}"
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if before >= INTERVAL and resumed is None:
        return f"did not resume after step {before}"
    if resumed is not None and before - resumed > INTERVAL:
        return f"resumed at {resumed}, more than {INTERVAL} steps before {before}"
    last = folder / "checkpoints/last.pt"
    if last.exists():
        try:
            read_checkpoint(last)
        except ValueError as error:
            return f"unreadable: {error}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    kills = parser.parse_args().kills
    random.seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        folder, log, steps = base / "run", base / "log", 100_000
        troubles = []
        for number in range(1, kills + 1):
            trouble = sitting(folder, base / "shapes", steps, log)
            troubles += [trouble] if trouble else []
            print(f"kill {number}: step {last_logged(folder)} {trouble or ''}", flush=True)
        steps = last_logged(folder) + 1
        ends = [start(each, base / "shapes", steps, log).wait() for each in (folder, base / "undisturbed")]
        killed, whole = (read_checkpoint(each / "checkpoints/last.pt") for each in (folder, base / "undisturbed"))
        differing = [name for name, each in whole["model"].items() if not torch.equal(each, killed["model"][name])]
        print(
            f"{kills} kills, {steps} steps, {len(troubles)} troubles, exit codes {ends}; {len(differing)} layers differ"
        )
        sys.exit(bool(troubles or differing or any(ends)))


if __name__ == "__main__":
    main()
