"""What the tests of several commands share: one data set of shapes and one finished run on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TINY

from maskrcnn_train import load_config, train


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.root={tmp_path_factory.mktemp('shapes')}"


@pytest.fixture(scope="session")
def run_dir(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 4 steps."""
    folder = tmp_path_factory.mktemp("run") / "run"
    settings = ["data.shapes.num_val=4", "evaluation.pictures=2", "trainer.max_steps=4"]
    settings += ["roi_head.detections_per_image=100"]  # of a model that has learnt little, some find something
    train(load_config([*TINY, shapes, *settings, f"output_dir={folder}"]))
    return folder
