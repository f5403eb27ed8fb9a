"""What many tests share: the device to compute on, one data set of shapes, and one finished run on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny import TINY

from maskrcnn_train import load_config, train


@pytest.hookimpl(tryfirst=True)  # before `-m gpu` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "device" in getattr(item, "fixturenames", []):
            item.add_marker("gpu")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tests about computing compute: a processor, unless MASKRCNN_TRAIN_TEST_DEVICE says cuda."""
    chosen = torch.device(os.environ.get("MASKRCNN_TRAIN_TEST_DEVICE", "cpu"))
    if chosen.type != "cuda":
        return chosen
    torch.backends.cudnn.allow_tf32 = False  # results are compared to more digits than it has
    return torch.device("cuda", chosen.index or 0)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.root={tmp_path_factory.mktemp('shapes')}"


@pytest.fixture(scope="session")
def run_dir(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 4 steps."""
    folder = tmp_path_factory.mktemp("run") / "run"
    settings = ["data.shapes.num_val=4", "evaluation.pictures=2", "trainer.max_steps=4", "trainer.ema=0.995"]
    settings += ["roi_head.detections_per_image=100"]  # of a model that has learnt little, some find something
    train(load_config([*TINY, shapes, *settings, f"output_dir={folder}"]))
    return folder
