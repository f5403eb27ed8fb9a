"""A bug of ours keeps its traceback and exits with 1, whichever way a training is started; a UserError is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

# runs a command with a bug in the ROI heads; in a sweep over seeds the first job meets a mistake of the person instead
RUNNER = """
import runpy, sys, torch
from maskrcnn_train.model.roi_heads import ROIHeads
from maskrcnn_train.settings.errors import UserError
def broken(self, features, proposals, targets):
    if "seed=0,1" in sys.argv and torch.initial_seed() == 0:
        raise UserError("the person's mistake")
    return list(zip([1], [1, 2], strict=True))
ROIHeads.losses = broken
module, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(module, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("module", "arguments", "run"),
    [
        ("maskrcnn_train", [], "."),
        ("maskrcnn_train", ["-m", "seed=0,1"], "1"),
        ("maskrcnn_train.tune", ["trials=2", "roi_head.num_fcs=1,2"], "0"),
    ],
)
def test_a_bug_keeps_its_traceback(module: str, arguments: list[str], run: str, shapes: str, tmp_path: Path) -> None:
    (tmp_path / "runner.py").write_text(RUNNER)
    settings = [*TINY, shapes, "trainer.max_steps=1", f"output_dir={tmp_path / 'runs'}"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "runner.py"), module, *arguments, *settings],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.rstrip().endswith("ValueError: zip() argument 2 is longer than argument 1")
    assert "in broken\n    return list(zip([1], [1, 2], strict=True))" in done.stderr
    assert "ERROR Traceback" in (tmp_path / "runs" / run / "train.log").read_text()


def test_a_user_error_in_a_sweep_is_one_line_and_ends_no_other_job(shapes: str, tmp_path: Path) -> None:
    settings = [*TINY, shapes, "trainer.max_steps=2", f"output_dir={tmp_path / 'runs'}", "schedule.warmup_steps=0"]
    done = subprocess.run(
        [sys.executable, "-m", "maskrcnn_train", "-m", *settings, "optimizer.lr=1e30,1e-3"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "step 1 cannot be taken" in line
    assert "Traceback" not in done.stderr
    assert (tmp_path / "runs/1/metrics.json").exists()
