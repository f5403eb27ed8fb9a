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

# rank 1 sees no object in its batches 5 to 8
SCRIPT = """
import itertools, os, sys, torch
from maskrcnn_train import load_config, train
from maskrcnn_train.structures.batch import MaskCrops
from maskrcnn_train.data.packing import PackedBatch
from maskrcnn_train.engine import loop
unpack, batches = PackedBatch.unpack, itertools.count()
def emptied(self):
    images, targets = unpack(self)
    if os.environ["RANK"] == "1" and 5 <= next(batches) < 9:
        for target in targets:
            crops = target["masks"]
            target["boxes"], target["labels"] = target["boxes"][:0], target["labels"][:0]
            target["masks"] = MaskCrops(crops.pixels[:0], crops.boxes[:0], crops.offsets[:1], crops.size)
    return images, targets
PackedBatch.unpack = emptied
kept, original = [], loop.take_step
def spying(state, *arguments):
    kept[:] = [state]
    return original(state, *arguments)
loop.take_step = spying
train(load_config(sys.argv[2:]))
torch.save(loop.distributed.unwrap(kept[0].model).state_dict(), f"{sys.argv[1]}/rank{os.environ['RANK']}.pt")
"""
TINY = [
    *SMALLEST,
    "data.shapes.num_train=14",
    "data.shapes.num_val=5",
    "backbone.norm=group",
    "trainer.batch_size=2",
    "trainer.ema=0",
    "trainer.max_steps=10",
]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
TORCHRUN += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    script = folder / "train_and_keep.py"
    script.write_text(SCRIPT)
    arguments = [*TINY, f"data.root={folder / 'shapes'}", f"output_dir={folder / 'run'}"]
    done = subprocess.run(
        [*TORCHRUN, str(script), str(folder), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_both_ranks_end_with_the_same_weights_in_one_run_folder_though_one_had_no_objects(two_ranks: Path) -> None:
    first, second = (torch.load(two_ranks / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    assert len(list(two_ranks.glob("run/events.out.tfevents.*"))) == 1
    assert read_checkpoint(two_ranks / "run/checkpoints/last.pt")["position"]["step"] == 10


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
