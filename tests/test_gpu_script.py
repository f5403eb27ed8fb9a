"""benchmarks/gpu, which scripts/gpu starts, works whole where there is no GPU, so that it does where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from documented import ROOT


def gpu_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), "benchmarks", "tests"])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_in_one_line() -> None:
    done = gpu_script()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("no GPU: ")
    assert done.stdout == ""


@pytest.mark.slow
def test_all_checks_and_the_benchmark_run_on_a_processor(tmp_path: Path) -> None:
    done = gpu_script("--device", "cpu", "--small", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu_report.json").read_text())
    page = (tmp_path / "gpu_report.md").read_text()
    assert {each["name"]: each["passed"] for each in report["checks"] if not each["passed"]} == {
        "training in fp16": None,
        "compiled": None,
        "captured": None,
    }
    assert len(report["checks"]) == 13
    for each in report["checks"]:
        assert f"| {each['name']} | " in page
    sides = {(each["batch_size"], each["side"]) for each in report["speed"]}
    assert {(size, "ours") for size in (1, 2)} < sides
    assert all(each["images_per_second"][0] > 0 for each in report["speed"])
    assert report["environment"]["packages"]["torch"] == torch.__version__.partition("+")[0]
