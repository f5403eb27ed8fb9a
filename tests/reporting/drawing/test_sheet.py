from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TINY

from maskrcnn_train import load_config
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.reporting.drawing.sheet import DRAWS, write_sheet


@pytest.mark.parametrize("options", [["augmentation=strong", "augmentation.copy_paste=1"], ["mask_head=none"]])
def test_a_sheet_has_a_row_of_draws_for_each_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(tmp_path / "cache"))
    config = load_config([*TINY, f"data.root={tmp_path / 'shapes'}", *options])
    path = write_sheet(config, read_splits(config), tmp_path / "new" / "sheet.png", count=2)
    assert path == tmp_path / "new" / "sheet.png"
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape[1] > DRAWS * 480  # small images are enlarged
    assert pixels.shape[0] > 2 * 480
    thirds = np.array_split(pixels[: pixels.shape[0] // 2], DRAWS, axis=1)
    assert all(third.std() > 10 for third in thirds)
    same = np.array_equal(thirds[0][:, :400], thirds[1][:, :400])
    assert not same
    assert [file.name for file in path.parent.iterdir()] == ["sheet.png"]


def test_a_sheet_of_more_images_than_there_are_shows_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(tmp_path / "cache"))
    config = load_config([*TINY, f"data.root={tmp_path / 'shapes'}", "data.shapes.num_train=2"])
    with Image.open(write_sheet(config, read_splits(config), tmp_path / "sheet.jpg", count=50)) as sheet:
        assert 2 * 480 < sheet.height < 3 * 480 + 100
