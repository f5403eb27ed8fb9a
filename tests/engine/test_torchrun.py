"""What torchrun adds: a killed process is started again, and machines need not share the run's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY

from maskrcnn_train.engine.checkpoint import Checkpoints, read_checkpoint
from maskrcnn_train.engine.distributed import World
from maskrcnn_train.engine.run import distributed, has_checkpoint
from maskrcnn_train.settings.errors import UserError

# Each rank runs in a working folder of its own, so that a relative output_dir is not shared.
SCRIPT = """
import os, sys
from planted_fault import plant
from maskrcnn_train.__main__ import main
home, phase, fault, *places = sys.argv[1:6]
sys.argv[1:6] = []
os.makedirs(os.path.join(home, places[int(os.environ["RANK"])]), exist_ok=True)
os.chdir(os.path.join(home, places[int(os.environ["RANK"])]))
if fault != "none" and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    plant(phase, fault)
main()
"""
SETTINGS = [each for each in TINY if not each.startswith("trainer.batch_size")]
SETTINGS += ["trainer.batch_size=2", "trainer.interval_unit=step", "trainer.checkpoint_every=1", "output_dir=run"]
SETTINGS += ["trainer.evaluate_every=0", "trainer.distributed_timeout=1", "resume=auto"]


def torchrun(
    folder: Path,
    shapes: str,
    *settings: str,
    fault: str = "none",
    places: tuple[str, str] = ("a", "a"),
    restarts: int = 0,
) -> subprocess.CompletedProcess[str]:
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--max-restarts={restarts}"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script), str(folder), "second step", fault]
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, *places, *SETTINGS, shapes, *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def last(run: Path) -> dict[str, Any]:
    return read_checkpoint(run / "checkpoints/last.pt")


@pytest.mark.slow
def test_a_killed_process_and_machines_without_a_shared_folder_end_with_the_weights_of_an_undisturbed_run(
    shapes: str, tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("whole", "killed", "apart")}
    for folder in folders.values():
        folder.mkdir()
    four = "trainer.max_steps=4"
    assert torchrun(folders["whole"], shapes, four).returncode == 0
    killed = torchrun(folders["killed"], shapes, four, fault="SIGKILL", restarts=1)
    assert killed.returncode == 0, killed.stderr
    assert "resumed run at step 1" in (folders["killed"] / "a/run/train.log").read_text()
    assert torchrun(folders["apart"], shapes, four, fault="bug", places=("a", "b")).returncode > 0
    apart = torchrun(folders["apart"], shapes, four, places=("a", "b"))
    assert apart.returncode == 0, apart.stderr
    assert not (folders["apart"] / "b/run/checkpoints").exists()
    whole = last(folders["whole"] / "a/run")
    for name in ("killed", "apart"):
        other = last(folders[name] / "a/run")
        assert other["position"]["step"] == 4
        for part in ("model", "ema"):
            assert all(torch.equal(weight, other[part][key]) for key, weight in whole[part].items()), (name, part)
    swapped = torchrun(folders["apart"], shapes, "trainer.max_steps=6", places=("b", "a"))
    lines = [line for line in swapped.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "(rank 1), but not on" in lines[0]


@pytest.mark.parametrize(("there", "resumes"), [((True, False), True), ((False, False), False), ((False, True), None)])
def test_rank_0_decides_whether_a_run_is_resumed_unless_only_another_machine_has_it(
    there: tuple[bool, bool], resumes: bool | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(distributed, "gather", lambda value, world: list(zip(there, ("node1", "node2"), strict=True)))
    checkpoints = Checkpoints(tmp_path, about={})
    if resumes is not None:
        assert has_checkpoint(checkpoints, World(1, 0, 2)) == resumes
        return
    with pytest.raises(UserError, match=r"is there on node2 \(rank 1\), but not on node1 \(rank 0\)"):
        has_checkpoint(checkpoints, World(1, 0, 2))
