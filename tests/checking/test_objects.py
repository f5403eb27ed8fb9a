from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from labelled_data import few_shapes, write
from small_coco import roboflow, small_coco

from maskrcnn_train import load_config
from maskrcnn_train.checking.objects import check_object_sizes, largest_size, network_objects
from maskrcnn_train.data.loading import build_loaders
from maskrcnn_train.data.splits.splitting import read_splits

USUAL = ["data.min_size=96", "data.max_size=200", "trainer.num_workers=0", "augmentation=none"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Three wide and three tall images: with two a batch one of each is left."""
    root = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKRCNN_TRAIN_CACHE", str(root / "cache"))
        yield ["data=roboflow", f"data.root={roboflow(root / 'data', small_coco(6))}", *USUAL]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.batch_size=1"], (160, 96)),
        (["trainer.batch_size=2"], (160, 160)),
        (["trainer.batch_size=4", "data.group_by_shape=false"], (160, 160)),
        (["trainer.batch_size=1", "augmentation.min_sizes=[64,128,80]"], (192, 128)),
        (["trainer.batch_size=2", "augmentation.min_sizes=[64,128,80]"], (192, 192)),
        (["trainer.batch_size=1", "augmentation.min_crop=0.4"], (224, 96)),
        (["trainer.batch_size=2", "augmentation.min_crop=0.4"], (224, 224)),
        (["trainer.batch_size=2", "data.tile.size=32", "data.tile.overlap=0"], (96, 96)),
    ],
)
def test_memory_is_forecast_for_the_largest_batch_that_comes(
    settings: list[str], overrides: list[str], expected: tuple[int, int]
) -> None:
    config = load_config([*settings, *overrides])
    splits = read_splits(config)
    assert {largest_size(splits.train, config)} <= {expected, expected[::-1]}
    loader, met = build_loaders(config, splits=splits).train, []
    for epoch in range(30):
        loader.set_epoch(epoch)
        met += [images.pixels.shape[2:] for images, _ in loader]
    highest = max(height * width for height, width in met)
    assert 0.8 * expected[0] * expected[1] <= highest <= expected[0] * expected[1]


def test_objects_of_other_files_than_a_json_are_named_by_their_place(tmp_path: Path) -> None:
    folder = write(few_shapes(tmp_path / "shapes"), "yolo", tmp_path / "yolo", tolerance=0.5)
    config = load_config(["data=yolo", f"data.root={folder}", "data.min_size=40", "data.max_size=40"])
    split = read_splits(config).train
    (small,) = (
        finding
        for finding in check_object_sizes(split, network_objects(split, config), config)
        if finding.kind == "objects-small"
    )
    assert all(".txt line " in str(item) for item in small.items)
