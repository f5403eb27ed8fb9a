"""Damaged annotation files: one clear line, or a correct read; never a traceback, never a crash of the interpreter."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damage import damaged, sound_coco
from small_coco import Configure, assert_equal, small_coco, write_images, write_json

from maskrcnn_train.data.coco.reader import open_index, read_coco
from maskrcnn_train.data.coco.results import coco_content
from maskrcnn_train.data.dataset import CocoDataset
from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.splits.splitting import Splits, read_splits
from maskrcnn_train.data.transforms import Transform
from maskrcnn_train.evaluation.coco.metrics import evaluate_coco
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import MaskCrops

BACKENDS = ("hotcoco", "faster_coco_eval", "pycocotools")
STRONG = Transform(min_sizes=(48,), max_size=96, horizontal_flip=0.5, min_crop=0.5, rotation=20.0, copy_paste=0.5)
JITTER = Transform(min_sizes=(48,), max_size=96, scale_jitter=(0.2, 2.0))


def read_all(config: TrainConfig, seed: int) -> str:
    """How far a file is usable: refused, trained on. Raises what a person would see as a traceback."""
    path = Path(str(config.data.train.annotations))
    assert_blocks_change_nothing(path)
    try:
        splits = read_splits(config)
    except ValueError as error:
        assert_one_line(error, path)
        usable = "refused"
    else:
        train_on(splits, seed)
        usable = "trained on"
    try:
        truth = coco_content(open_index(path))
    except ValueError as error:
        assert_one_line(error, path)
        assert usable == "refused"
        return usable
    evaluate(truth, BACKENDS[seed % 3])
    return usable


def assert_blocks_change_nothing(path: Path) -> None:
    found = []
    for size in (400, 2**20):
        try:
            found.append(read_coco(path, block_size=size))
        except ValueError as error:
            assert_one_line(error, path)
    assert len(found) != 1
    if found:
        assert_equal(*found)


def assert_one_line(error: ValueError, path: Path) -> None:
    assert type(error) is UserError, repr(error)
    assert path.name in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 2000


def train_on(splits: Splits, seed: int) -> None:
    """All samples of an epoch; what they must be."""
    for number, transform in enumerate((STRONG, JITTER)):
        data = CocoDataset(split=splits.train, classes=splits.classes, transform=transform, seed=seed)
        for position in range(len(data)):
            try:
                pixels, target, _ = data[(number, position)]
            except ImageError:
                continue  # the damaged JSON gives its image another size
            boxes, found = target["boxes"].numpy(), target["masks"]
            assert isinstance(found, MaskCrops)
            assert np.isfinite(boxes).all()
            assert (boxes >= 0).all()
            assert (boxes[:, 2:] <= [pixels.shape[2], pixels.shape[1]]).all()
            assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
            assert len(boxes) == len(found) == len(target["labels"])
            assert found.pixels.max() <= 1 if len(found.pixels) else True
    data.ground_truth()


def evaluate(truth: dict, backend: str) -> None:
    """Score the objects of the file against themselves, as far as it has masks."""
    with_masks = all("segmentation" in item for item in truth["annotations"])
    kinds = ("bbox", "segm") if with_masks else ("bbox",)
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    results = [
        {
            **{key: item[key] for key in ("image_id", "category_id", "bbox")},
            "score": 0.5,
            "segmentation": {"size": (size := sizes[item["image_id"]]), "counts": [0, size[0] * size[1]]},
        }
        for item in truth["annotations"]
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate_coco(truth, results, backend=backend, max_detections=[1, 10, 100], kinds=kinds)
    assert all(-1 <= value <= 1 for value in found.metrics.values() if value == value)


def run(seeds: range, tmp_path: Path, configure: Configure) -> Counter[str]:
    """Damage, write and read one file for each seed; how many were usable how far."""
    path = tmp_path / "damaged.json"
    images = write_images(tmp_path / "images", sound_coco())
    val = write_json(tmp_path / "val.json", small_coco(4))
    paths = [f"data.train.annotations={path}", f"data.train.images={images}"]
    paths += [f"data.val.annotations={val}", f"data.val.images={images}"]
    config = configure("data=custom", *paths)
    skipping = replace(config, data=replace(config.data, on_bad_image="skip"))
    counts: Counter[str] = Counter()
    for seed in seeds:
        path.write_bytes(damaged(seed))
        try:
            counts[read_all(skipping if seed % 2 else config, seed)] += 1
        except Exception as error:
            raise AssertionError(f"damaged({seed})") from error
    return counts


def test_the_undamaged_file_is_used_whole(tmp_path: Path, configure: Configure) -> None:
    coco = sound_coco()
    path = write_json(tmp_path / "a.json", coco)
    images = write_images(tmp_path / "images", coco)
    paths = [f"data.{split}.{key}" for split in ("train", "val") for key in ("annotations", "images")]
    config = configure("data=custom", *(f"{key}={images if 'images' in key else path}" for key in paths))
    assert len(read_splits(config).train.skipped) == 0
    assert read_all(config, 0) == "trained on"


def test_damaged_files_are_read_right_or_refused_in_one_line(tmp_path: Path, configure: Configure) -> None:
    counts = run(range(200), tmp_path, configure)
    assert counts["refused"] > 20
    assert counts["trained on"] > 20


@pytest.mark.slow
def test_5000_damaged_files_are_read_right_or_refused_in_one_line(tmp_path: Path, configure: Configure) -> None:
    counts = run(range(200, 5200), tmp_path, configure)
    assert min(counts["refused"], counts["trained on"]) > 500
