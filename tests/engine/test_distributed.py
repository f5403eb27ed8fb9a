"""Two processes on a CPU, started by torchrun, train as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import TINY as SMALLEST

from maskrcnn_train.engine.checkpoint import read_checkpoint

TINY = [
    *SMALLEST,
    "data.shapes.num_train=14",
    "data.shapes.num_val=5",
    "backbone.norm=group",
    "trainer.batch_size=2",
    "trainer.max_steps=6",
]

SCRIPT = Path(__file__).parents[1] / "train_and_keep.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
TORCHRUN += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    arguments = [*TINY, f"data.root={folder / 'shapes'}", f"output_dir={folder / 'run'}"]
    done = subprocess.run(
        [*TORCHRUN, str(SCRIPT), str(folder), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    assert "Grad strides" not in done.stderr
    return folder


def test_both_ranks_end_with_the_same_weights_in_one_run_folder_though_one_had_no_objects(two_ranks: Path) -> None:
    first, second = (torch.load(two_ranks / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    assert len(list(two_ranks.glob("run/events.out.tfevents.*"))) == 1
    assert read_checkpoint(two_ranks / "run/checkpoints/last.pt")["position"]["step"] == 6


def test_the_map_is_that_of_one_process(two_ranks: Path) -> None:
    from dataclasses import replace

    from maskrcnn_train import build_loaders, build_model
    from maskrcnn_train.engine.distributed import ALONE
    from maskrcnn_train.prediction.validation import Validation
    from maskrcnn_train.settings.compose import config_from_plain

    content = read_checkpoint(two_ranks / "run/checkpoints/last.pt")
    config = config_from_plain(content["config"])
    config = replace(config, output_dir=None)
    loaders = build_loaders(config)
    model = build_model(config, loaders.classes.num_classes)
    model.load_state_dict(content["model"])
    alone = Validation(loaders.val, config, ALONE).evaluate(model.to(memory_format=torch.channels_last))
    together = json.loads((two_ranks / "run/metrics.json").read_text())
    assert together.keys() == alone.keys()
    for name, value in together.items():
        assert value == pytest.approx(alone[name], abs=1e-6), name
