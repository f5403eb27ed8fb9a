"""The cache of indices stays inside the test's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_coco import FACADE, Configure

from maskrcnn_train import load_config
from maskrcnn_train.settings.schema import TrainConfig


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(folder))
    return folder


@pytest.fixture
def facade() -> Path:
    if not FACADE.is_dir():
        pytest.skip("the facade data set is not beside the repository")
    return FACADE


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """A config of the data set in tmp_path/data, without workers and at a small size."""

    def build(*overrides: str) -> TrainConfig:
        defaults = ["data=roboflow", f"data.root={tmp_path / 'data'}", "data.min_size=48", "data.max_size=96"]
        return load_config([*defaults, "trainer.num_workers=0", "augmentation=none", *overrides])

    return build
