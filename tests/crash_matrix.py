"""Every fault at every phase of every command: how it ends, and whether the same command then goes on.

    .venv/bin/python tests/crash_matrix.py [COMMAND] [PHASE] [FAULT]

prints a table; the exit code is 1 if a cell is not as it must be. The slow tests run some of the cells.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import is_zipfile

from tiny import TINY, untrained_checkpoint

PLANT = Path(__file__).with_name("planted_fault.py")
SIGNALS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}
FAULTS = [*SIGNALS, "full disk", "out of memory", "lost worker", "lost image", "bug"]
STEPS = ["first step", "second step", "checkpoint", "writing"]
PHASES = {
    "train": ["start", "data", "model", *STEPS, "evaluation", "study", "report"],
    "evaluate": ["start", "evaluation"],
    "predict": ["start", "evaluation"],
    "export": ["start", "export"],
    "tune": ["start", "second step", "evaluation"],
    "labels": ["start", "second step", "evaluation"],
    "sweep": ["start", "second step", "evaluation"],
}
LONGEST = 10.0  # seconds from the fault to the end
WITH_ANOTHER_JOB = 40.0  # of commands that finish another training after one has failed
# more images of an evaluation than its workers read ahead
DATA = [*[text for text in TINY if text.startswith("data.shapes")], "data.shapes.num_train=6", "data.shapes.num_val=8"]
# a worker or an image can be lost only while images are read
READING = ("first step", "second step", "evaluation")


@dataclass
class Cell:
    """How one command ended after one fault. again: the exit code of the same command afterwards."""

    command: str
    phase: str
    fault: str
    code: int
    seconds: float
    said: str
    again: int
    left: list[str]

    @property
    def skips(self) -> bool:
        """Whether the command names what it lost, does the rest and exits with 1."""
        return (self.command, self.fault) == ("predict", "lost image")

    @property
    def problem(self) -> str:
        """What is not as it must be; nothing where the cell is green."""
        if self.fault in SIGNALS:
            wanted = {SIGNALS[self.fault]} | ({-15, -2} if self.phase == "start" else set())
        else:
            wanted = {1} if self.fault == "bug" or self.skips else {2}
            # a search goes on after a failed trial, and a disk that is full fails all
            wanted |= {0} if self.command == "tune" and self.fault not in ("bug", "full disk") else set()
        if self.code not in wanted:
            return f"exit code {self.code}"
        if self.seconds < 0:
            return "the fault never struck"
        goes_on = self.command in ("tune", "sweep") and self.fault not in SIGNALS
        if self.seconds > (WITH_ANOTHER_JOB if goes_on else LONGEST):
            return f"{self.seconds:.0f} s"
        if self.code == 2 and ("Traceback" in self.said or not self.said.splitlines()[-1].startswith("error")):
            return "no line says why"
        if self.code == 1 and not self.skips and "Traceback" not in self.said:
            return "no traceback"
        if self.left:
            return f"left behind: {self.left[0]}"
        return f"then exit code {self.again}" if self.again else ""


def arguments(command: str, folder: Path, checkpoint: Path) -> tuple[str, list[str]]:
    """Module and arguments of a small call that writes to folder/out and can be given again."""
    small = [*TINY, f"data.root={folder / 'shapes'}", *DATA[-2:], "trainer.batch_size=2"]
    small += ["trainer.max_steps=3", "trainer.num_workers=1", "evaluation.bootstrap=0", "evaluation.study=true"]
    small += ["evaluation.batch_size=1"]
    small += ["trainer.interval_unit=step", "trainer.checkpoint_every=1"]
    out, read = f"output_dir={folder / 'out'}", f"checkpoint={checkpoint}"
    data = ["data=shapes", f"data.root={folder / 'shapes'}", *DATA, "evaluation.batch_size=1"]
    return {
        "train": ("maskrcnn_train", [*small, out, "resume=auto"]),
        "evaluate": ("maskrcnn_train.evaluate", [read, *data, out, "num_workers=1", "evaluation.bootstrap=0"]),
        "predict": ("maskrcnn_train.predict", [read, f"images={folder / 'images'}", out]),
        "export": ("maskrcnn_train.export", [read, "format=onnx", out]),
        "tune": ("maskrcnn_train.tune", [*small, out, "optimizer.lr=1e-3,2e-3", "trials=2"]),
        "labels": ("maskrcnn_train.labels", [*small, out, "folds=2"]),
        "sweep": ("maskrcnn_train", ["-m", *small, out, "seed=0,1", "sweep.retry_failed=true"]),
    }[command]


def run(command: list[str], env: dict[str, str]) -> tuple[int, str, float]:
    """Exit code, standard error, and when it ended."""
    # a shell's background jobs ignore SIGINT
    restored = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, preexec_fn=restored)
    return done.returncode, done.stderr.strip(), time.time()


def play(command: str, phase: str, fault: str, checkpoint: Path) -> Cell:
    """Run the command with the fault, then again without it."""
    kept = checkpoint.parent / "shapes"
    with tempfile.TemporaryDirectory(prefix="crash-") as name:
        folder = Path(name)
        module, given = arguments(command, folder, checkpoint)
        images = folder / ("images" if command == "predict" else "shapes")
        source = next(kept.glob("*px*/train")) if command == "predict" else kept
        shutil.copytree(source, images)
        struck = folder / "struck"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "STRUCK": str(struck), "IMAGES": str(images)}
        code, said, ended = run([sys.executable, str(PLANT), phase, fault, module, *given], env)
        seconds = ended - float(struck.read_text()) if struck.exists() else -1.0
        left = [each for each in half_written(folder / "out") if fault != "SIGKILL" or not each.endswith(".part")]
        shutil.copytree(source, images, dirs_exist_ok=True)
        # these go on in their folder, but for a search whose trials all failed; the others write their results anew
        if command not in ("train", "tune", "sweep", "labels") or "no trial ended well" in said:
            shutil.rmtree(folder / "out", ignore_errors=True)
        again, _, _ = run([sys.executable, "-m", module, *given], env)
        return Cell(command, phase, fault, code, seconds, said, again, left + half_written(folder / "out"))


def half_written(folder: Path) -> list[str]:
    """Files that a reader could take for whole ones, and leftovers."""
    bad = [path.name for path in folder.rglob("*") if path.suffix in (".part", ".tmp")]
    bad += [path.name for path in folder.rglob("*.pt") if not is_zipfile(path)]
    for path in folder.rglob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            bad.append(path.name)
    return bad


def cells() -> list[tuple[str, str, str]]:
    """Command, phase and fault of every cell that can be."""
    return [
        (command, phase, fault)
        for command, phases in PHASES.items()
        for phase, fault in itertools.product(phases, FAULTS)
        if phase in READING or fault not in ("lost worker", "lost image")
        if command not in ("predict", "export") or fault != "lost worker"
        if phase != "start" or fault != "out of memory"
    ]


def main() -> int:
    wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = untrained_checkpoint(Path(scratch))
        subprocess.run(
            [sys.executable, "-c", "import sys; from maskrcnn_train import load_config; from "
             "maskrcnn_train.data.splits.splitting import read_splits; read_splits(load_config(sys.argv[1:]))",
             *TINY, *DATA[-2:], f"data.root={scratch}/shapes"], check=True,
        )  # fmt: skip
        bad = 0
        for cell in cells():
            if all(part in cell for part in wanted):
                played = play(*cell, checkpoint)
                bad += bool(played.problem)
                verdict = played.problem or "as it must be"
                print(f"{'  '.join(cell):<40} {played.code:>4} {played.seconds:5.1f} s  {verdict}", flush=True)
                if played.problem:
                    print("    " + "\n    ".join(played.said.splitlines()[-4:]), flush=True)
    print(f"{bad} cells are not as they must be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
