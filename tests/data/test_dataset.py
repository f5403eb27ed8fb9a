from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from small_coco import Configure, annotation, roboflow, small_coco

from maskrcnn_train import load_config
from maskrcnn_train.data.coco.reader import open_index
from maskrcnn_train.data.coco.results import coco_content
from maskrcnn_train.data.dataset import CocoDataset
from maskrcnn_train.data.loading import build_loaders
from maskrcnn_train.data.splits.splitting import REGION, read_splits
from maskrcnn_train.data.targets import build_target
from maskrcnn_train.data.transforms import Geometry, Transform
from maskrcnn_train.prediction.pictures import prepare
from maskrcnn_train.structures.batch import MaskCrops, Target
from maskrcnn_train.structures.tiles import Tile

AUGMENTED: dict[str, dict[str, Any]] = {
    "resized": {},
    "horizontal": {"horizontal_flip": 1.0},
    "vertical": {"vertical_flip": 1.0},
    "multiscale": {"min_sizes": (24, 40, 90)},
    "jitter": {"scale_jitter": (0.2, 2.5), "horizontal_flip": 0.5, "vertical_flip": 0.5},
    "cropped": {"min_crop": 0.4, "horizontal_flip": 0.5},
    "turned": {"rotation": 30.0, "vertical_flip": 0.5},
    "strong": {"min_crop": 0.6, "rotation": 5.0, "horizontal_flip": 0.5, "color_jitter": 0.5},
    "turned and jittered": {"scale_jitter": (0.2, 2.5), "rotation": 20.0},
    "pasted": {"copy_paste": 1.0, "min_crop": 0.6, "rotation": 5.0},
}

# pycocotools 2.0.11 decodes with a numpy protocol of before 2.0
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def mixed_coco() -> dict[str, Any]:
    """Polygons and RLE of squares, circles and objects at the border."""
    coco = small_coco()
    rows, columns = np.mgrid[0:40, 0:60]
    disc = np.asfortranarray(((rows - 22) ** 2 + (columns - 40) ** 2 < 130).astype(np.uint8))
    encoded = coco_mask.encode(disc)
    box = coco_mask.toBbox(encoded).tolist()
    rle = {"size": [40, 60], "counts": encoded["counts"].decode()}
    coco["annotations"].append(annotation(100, 1, 3, 0, 0, 1, segmentation=rle, bbox=box, area=float(disc.sum())))
    coco["annotations"].append(annotation(101, 1, 7, 48, 28, 12))
    coco["annotations"].append(annotation(102, 3, 7, 0, 0, 12, iscrowd=1))
    return coco


def dataset(root: Path, configure: Configure, transform: Transform | None = None, **options: Any) -> CocoDataset:
    splits = read_splits(configure())
    transform = transform or Transform(min_sizes=(48,), max_size=96)
    return CocoDataset(split=splits.train, classes=splits.classes, transform=transform, **options)


def mask_extents(target: Target) -> torch.Tensor:
    masks = target["masks"]
    assert isinstance(masks, MaskCrops)
    extents = []
    for mask in masks.dense():
        rows, columns = torch.nonzero(mask.any(dim=1)), torch.nonzero(mask.any(dim=0))
        extents.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(extents).reshape(-1, 4)


@pytest.mark.parametrize("name", AUGMENTED)
def test_masks_follow_their_boxes(tmp_path: Path, configure: Configure, name: str) -> None:
    roboflow(tmp_path / "data", mixed_coco())
    transform = Transform(**{"min_sizes": (48,), "max_size": 140, **AUGMENTED[name]})
    data = dataset(tmp_path, configure, transform)
    seen = 0
    for epoch in range(12):
        pixels, target, _ = data[(epoch, 0)]
        masks = target["masks"]
        assert isinstance(masks, MaskCrops)
        assert masks.size == tuple(pixels.shape[1:])
        assert len(masks) == len(target["boxes"]) == len(target["labels"])
        assert (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 1).all()
        assert (target["boxes"] >= 0).all()
        torch.testing.assert_close(mask_extents(target).float(), target["boxes"], atol=1.01, rtol=0)
        seen += len(masks)
    assert seen > 12


def test_masks_equal_the_resized_polygon_drawn_whole(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco())
    data = dataset(tmp_path, configure)
    pixels, target, size = data[0]
    assert (tuple(pixels.shape), pixels.dtype, size) == ((3, 48, 72), torch.uint8, (40, 60))
    masks = target["masks"]
    assert isinstance(masks, MaskCrops)
    for row, dense in enumerate(masks.dense().numpy()):
        polygon = (data.split.index.parts(row)[0] * 1.2).tolist()
        np.testing.assert_array_equal(dense, coco_mask.decode(coco_mask.frPyObjects([polygon], 48, 72))[..., 0])
    torch.testing.assert_close(target["boxes"], torch.tensor([[3, 4, 15, 16], [20, 19, 30, 29]]) * 1.2)
    assert target["labels"].tolist() == [1, 2]


def test_turned_polygons_are_drawn_exactly(tmp_path: Path, configure: Configure) -> None:
    """Masks are what pycocotools draws of the turned outline, boxes the outline's, cut at the border."""
    roboflow(tmp_path / "data", small_coco())
    transform = Transform(min_sizes=(48,), max_size=96, rotation=25.0, min_crop=0.7, horizontal_flip=0.5)
    data = dataset(tmp_path, configure, transform)
    for epoch in range(20):
        pixels, target, _ = data[(epoch, 0)]
        geometry = transform.geometry((40, 60), np.random.default_rng([0, epoch, 0]))
        height, width = geometry.size
        assert tuple(pixels.shape[1:]) == (height, width)
        masks = target["masks"]
        assert isinstance(masks, MaskCrops)
        expected = []
        for row in range(2):
            points = geometry.points(data.split.index.parts(row)[0])
            whole = coco_mask.decode(coco_mask.frPyObjects([points.tolist()], height, width))[..., 0]
            outline = np.concatenate([points.reshape(-1, 2).min(axis=0), points.reshape(-1, 2).max(axis=0)])
            clipped = np.clip(outline, 0, [width, height] * 2)
            if whole.any() and (clipped[2:] - clipped[:2] >= 1).all():
                expected.append((whole, outline if (clipped == outline).all() else None))
        assert len(expected) == len(masks)
        extents, boxes = mask_extents(target).numpy(), target["boxes"].numpy()
        for i, (whole, outline) in enumerate(expected):
            np.testing.assert_array_equal(masks.dense()[i].numpy(), whole)
            np.testing.assert_allclose(boxes[i], extents[i] if outline is None else outline, atol=1e-4)


@pytest.mark.parametrize("tile", [None, ((0, 0, 25, 40), (40, 60))])
def test_only_what_is_cut_is_fitted_to_its_mask_and_only_regions_in_sight_are_ignored(
    tmp_path: Path, configure: Configure, tile: Tile | None
) -> None:
    coco = small_coco()
    for item, box in zip(coco["annotations"], ([2, 3, 14, 14], [19, 18, 12, 12]), strict=False):
        item["bbox"] = box  # a pixel wider than the mask
    coco["annotations"].append(annotation(100, 1, 3, 40, 4, 8))
    roboflow(tmp_path / "data", coco)
    split = read_splits(configure()).train
    labels = np.where(split.index.annotation_ids == 100, REGION, split.labels)
    whole = (40, 60) if tile is None else (40, 25)
    target = build_target(split.index, labels, 0, Geometry(whole, whole, (40, 25), tile=tile), with_masks=True)
    assert target["boxes"].tolist() == [[2, 3, 16, 17], [20, 19, 25, 29]]
    assert len(target.get("ignored", [])) == 0


def test_a_mirrored_picture_is_the_picture_mirrored(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", mixed_coco())
    plain = dataset(tmp_path, configure)[0]
    mirrored = dataset(tmp_path, configure, Transform(min_sizes=(48,), max_size=96, horizontal_flip=1.0))[(0, 0)]
    torch.testing.assert_close(mirrored[0], plain[0].flip(2))
    x1, y1, x2, y2 = plain[1]["boxes"].unbind(1)
    torch.testing.assert_close(mirrored[1]["boxes"], torch.stack([72 - x2, y1, 72 - x1, y2], dim=1))


def test_a_large_jpeg_is_scored_as_predict_sees_it(tmp_path: Path, configure: Configure) -> None:
    coco = mixed_coco()
    coco["images"][0] |= {"file_name": "1.jpg", "width": 240, "height": 160}
    roboflow(tmp_path / "data", coco)
    own = dataset(tmp_path, configure)
    seen = prepare(configure(), own.image_path(0)).pixels
    assert seen is not None
    assert torch.equal(own[0][0], seen)
    assert not torch.equal(own[(0, 0)][0], seen)  # training has it decoded at half of its size, which is faster


def test_augmentation_depends_on_seed_epoch_position_and_repeat_only(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", mixed_coco())
    transform = Transform(min_sizes=(48,), max_size=96, scale_jitter=(0.5, 2.0), color_jitter=0.5)
    first, second = (dataset(tmp_path, configure, transform, seed=3) for _ in range(2))
    second[(7, 1)]
    torch.testing.assert_close(first[(2, 0)][0], second[(2, 0)][0])
    other_epoch, other_seed = first[(3, 0)], dataset(tmp_path, configure, transform, seed=4)[(2, 0)]
    assert not torch.equal(first[(2, 0)][0], other_epoch[0])
    assert not torch.equal(first[(2, 0)][0], other_seed[0])
    assert not torch.equal(first[(2, 0)][0], first[(2, 0, 1)][0])  # a repeat has a draw of its own
    tops = [first[(2, position)][1]["boxes"][0, 1::2] for position in (0, 2)]  # of equal doors on images of one size
    assert not torch.equal(*tops)


def test_crowd_is_no_target_but_ground_truth(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", mixed_coco())
    data = dataset(tmp_path, configure)
    assert len(data[2][1]["labels"]) == 2
    truth = data.ground_truth()
    assert [item["id"] for item in truth["annotations"] if item["iscrowd"]] == [102]


def test_a_box_that_sticks_out_is_clipped_to_train_on_and_scored_as_it_is_written(
    tmp_path: Path, configure: Configure
) -> None:
    coco = small_coco()
    coco["annotations"][0]["bbox"] = [-0.25, 4, 14.5, 12]
    roboflow(tmp_path / "data", coco)
    data = dataset(tmp_path, configure)
    assert data[0][1]["boxes"][0, 0] == 0
    written = tmp_path / "data" / "train" / "_annotations.coco.json"
    for truth in (data.ground_truth(), coco_content(open_index(written))):
        assert truth["annotations"][0]["bbox"] == [-0.25, 4, 14.5, 12]


def test_an_empty_image_has_empty_targets(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco()
    coco["annotations"] = [item for item in coco["annotations"] if item["image_id"] != 2]
    roboflow(tmp_path / "data", coco)
    target = dataset(tmp_path, configure)[1][1]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert len(target["masks"]) == 0
    assert dataset(tmp_path, configure, keep_empty=False).rows.tolist() == [0, 2, 3]


def test_ground_truth_is_what_pycocotools_reads_under_the_ids_of_the_file(tmp_path: Path, configure: Configure) -> None:
    coco = mixed_coco()
    for item in coco["annotations"]:
        item["id"] -= 1  # from 0, as many files have them
    roboflow(tmp_path / "data", coco)
    truth = dataset(tmp_path, configure).ground_truth()
    ours, theirs = COCO(), COCO()
    ours.dataset, theirs.dataset = truth, coco
    ours.createIndex()
    theirs.createIndex()
    assert ours.anns.keys() == theirs.anns.keys() >= {0}
    for number, item in theirs.anns.items():
        np.testing.assert_array_equal(ours.annToMask(ours.anns[number]), theirs.annToMask(item))
        for key in ("bbox", "area", "category_id", "image_id", "iscrowd"):
            assert ours.anns[number][key] == item[key]
    assert isinstance(truth["annotations"][0]["segmentation"]["counts"], str)


def test_validation_ground_truth_has_the_ids_of_training(tmp_path: Path, configure: Configure) -> None:
    val = small_coco()
    val["categories"] = [{"id": 3, "name": "window"}, {"id": 7, "name": "door"}]
    roboflow(tmp_path / "data", small_coco(), val)
    truth = build_loaders(configure()).val.dataset.ground_truth()
    assert [item["category_id"] for item in truth["annotations"][:2]] == [7, 3]
    assert truth["categories"] == [{"id": 3, "name": "door"}, {"id": 7, "name": "window"}]


def test_without_mask_head_nothing_is_drawn(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco())
    data = dataset(tmp_path, configure, with_masks=False)
    assert "masks" not in data[0][1]
    assert "segmentation" not in data.ground_truth()["annotations"][0]


def test_objects_smaller_than_a_pixel_are_left_out(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco()
    coco["annotations"].append(annotation(100, 1, 3, 5, 5, 0.5))
    roboflow(tmp_path / "data", coco)
    assert len(dataset(tmp_path, configure)[0][1]["labels"]) == 2


def test_facade_masks_equal_the_whole_rasterisation(facade: Path) -> None:
    config = load_config(["data=roboflow", f"data.root={facade}", "augmentation=none"])
    splits = read_splits(config)
    data = CocoDataset(split=splits.train, classes=splits.classes, transform=Transform(min_sizes=(800,), max_size=1333))
    _, target, size = data[0]
    assert size == (1024, 1024)
    masks = target["masks"]
    assert isinstance(masks, MaskCrops)
    dense = masks.dense().numpy()
    for row, annotation_row in enumerate(range(*data.split.index.annotations(0).indices(10**6))):
        parts = [(part * 800 / 1024).tolist() for part in data.split.index.parts(annotation_row)]
        whole = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, 800, 800)))
        np.testing.assert_array_equal(dense[row], whole)
