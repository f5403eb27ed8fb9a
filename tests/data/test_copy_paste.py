from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_coco import Configure, annotation, roboflow, small_coco, square

from maskrcnn_train.data.copy_paste import paste_objects
from maskrcnn_train.data.dataset import CocoDataset
from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.loading import build_loaders
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.data.targets import pack
from maskrcnn_train.data.transforms import Transform
from maskrcnn_train.structures.batch import MaskCrops, Target


def rectangles(boxes: list[list[int]], size: tuple[int, int] = (40, 60), labels: list[int] | None = None) -> Target:
    """Objects that fill their boxes."""
    places = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    crops = [np.ones((y1 - y0, x1 - x0), dtype=np.uint8) for x0, y0, x1, y1 in boxes]
    return Target(
        boxes=torch.from_numpy(places.astype(np.float32)),
        labels=torch.tensor(labels or [1] * len(boxes), dtype=torch.int64),
        masks=pack(crops, places, size),
        image_id=5,
    )


def first_crop(target: Target) -> torch.Tensor:
    """The bitmap of the first object."""
    masks = target["masks"]
    assert isinstance(masks, MaskCrops)
    return masks.crop(0)


def dense(target: Target) -> np.ndarray:
    masks = target["masks"]
    assert isinstance(masks, MaskCrops)
    return masks.dense().numpy()


def paste(own: list[list[int]], donor: list[list[int]], size: tuple[int, int] = (40, 60)) -> tuple[np.ndarray, Target]:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    donor_pixels = np.full((*size, 3), 255, dtype=np.uint8)
    pasted = rectangles(donor, size, [2] * len(donor))
    target = paste_objects(pixels, rectangles(own), donor_pixels, pasted, np.random.default_rng(0))
    return pixels, target


def test_what_is_covered_is_cut_from_masks_and_boxes() -> None:
    pixels, target = paste([[10, 10, 30, 30], [50, 2, 58, 8]], [[20, 5, 40, 35]])
    assert target["boxes"].tolist() == [[10, 10, 20, 30], [50, 2, 58, 8], [20, 5, 40, 35]]
    assert target["labels"].tolist() == [1, 1, 2]
    assert target["image_id"] == 5
    masks = dense(target)
    assert masks.sum(axis=(1, 2)).tolist() == [200, 48, 600]
    assert masks.sum(axis=0).max() == 1
    np.testing.assert_array_equal(pixels[..., 0] > 0, masks[2] > 0)


def test_ignored_regions_stay_and_those_on_pasted_objects_come_with_them() -> None:
    own, donor = rectangles([[1, 1, 9, 9]]), rectangles([[20, 5, 40, 35]], labels=[2])
    own["ignored"], donor["ignored"] = (
        torch.tensor(regions) for regions in ([[50.0, 2, 58, 8]], [[22.0, 8, 30, 12], [0.0, 0, 18, 40]])
    )
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    target = paste_objects(pixels, own, pixels + 255, donor, np.random.default_rng(0))
    assert target["ignored"].tolist() == [[50, 2, 58, 8], [22, 8, 30, 12]]


def test_an_object_that_is_covered_whole_is_gone() -> None:
    _, target = paste([[22, 10, 30, 30], [1, 1, 9, 9]], [[20, 5, 40, 35]])
    assert target["boxes"].tolist() == [[1, 1, 9, 9], [20, 5, 40, 35]]


def test_a_hole_leaves_the_box_as_it_is() -> None:
    _, target = paste([[10, 10, 30, 30]], [[15, 15, 20, 20]])
    assert target["boxes"].tolist() == [[10, 10, 30, 30], [15, 15, 20, 20]]
    assert dense(target)[0].sum() == 400 - 25


def test_pasted_objects_are_cut_at_the_border() -> None:
    pixels, target = paste([], [[50, 30, 70, 55]], size=(60, 80))
    assert target["boxes"].tolist() == [[50, 30, 60, 40]]
    assert (pixels[30:40, 50:60] == 255).all()
    assert dense(target).shape == (1, 40, 60)
    assert paste([], [[62, 45, 70, 55]], size=(60, 80))[1]["boxes"].shape == (0, 4)


def test_a_box_stays_where_only_the_background_in_it_is_covered() -> None:
    own = rectangles([[10, 10, 30, 30]])
    first_crop(own)[:, 10:] = 0
    pixels = np.zeros((40, 60, 3), np.uint8)
    target = paste_objects(pixels, own, pixels, rectangles([[20, 5, 40, 35]]), np.random.default_rng(0))
    assert target["boxes"].tolist() == [[10, 10, 30, 30], [20, 5, 40, 35]]


@pytest.mark.parametrize(
    ("box", "left"), [([48.0, 28, 64, 44], [[48, 28, 60, 40]]), ([60.0, 28, 64, 44], [])], ids=["partly", "all of it"]
)
def test_a_box_that_is_not_its_masks_ends_at_the_border_too(box: list[float], left: list[list[float]]) -> None:
    donor = rectangles([[50, 30, 58, 38]], (60, 80))
    donor["boxes"] = torch.tensor([box])
    target = paste_objects(
        np.zeros((40, 60, 3), np.uint8),
        rectangles([]),
        np.zeros((60, 80, 3), np.uint8),
        donor,
        np.random.default_rng(0),
    )
    assert target["boxes"].tolist() == left


def test_the_first_target_is_not_changed() -> None:
    own = rectangles([[10, 10, 30, 30]])
    before = dense(own).copy()
    paste_objects(
        np.zeros((40, 60, 3), np.uint8),
        own,
        np.zeros((40, 60, 3), np.uint8),
        rectangles([[20, 5, 40, 35]]),
        np.random.default_rng(0),
    )
    np.testing.assert_array_equal(dense(own), before)
    assert own["boxes"].tolist() == [[10, 10, 30, 30]]


def test_objects_come_with_what_lies_on_them() -> None:
    donor = [[0, 0, 40, 40], [5, 5, 10, 10], [20, 20, 30, 30], [50, 5, 55, 10]]
    for seed in range(20):
        target = paste_objects(
            np.zeros((40, 60, 3), np.uint8),
            rectangles([]),
            np.zeros((40, 60, 3), np.uint8),
            rectangles(donor),
            np.random.default_rng(seed),
        )
        found = target["boxes"].tolist()
        assert found
        assert donor[0] not in found or (donor[1] in found and donor[2] in found)


def test_without_objects_nothing_is_pasted() -> None:
    pixels, target = paste([[10, 10, 30, 30]], [])
    assert (target["boxes"].tolist(), pixels.max()) == ([[10, 10, 30, 30]], 0)


def pasting(root: Path, configure: Configure, **options: object) -> CocoDataset:
    splits = read_splits(configure())
    transform = Transform(min_sizes=(48,), max_size=96, copy_paste=1.0)
    return CocoDataset(split=splits.train, classes=splits.classes, transform=transform, **options)  # type: ignore[arg-type]


def test_pasting_depends_on_seed_epoch_and_position_only(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco())
    first, second = (pasting(tmp_path, configure, seed=3) for _ in range(2))
    second[(7, 1)]
    torch.testing.assert_close(first[(2, 0)][0], second[(2, 0)][0])
    torch.testing.assert_close(first[(2, 0)][1]["boxes"], second[(2, 0)][1]["boxes"])
    assert any(not torch.equal(first[(2, 0)][0], first[(epoch, 0)][0]) for epoch in range(3, 8))


def test_copy_paste_changes_training_images_only(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco())
    plain, half, pasted = (build_loaders(configure(f"augmentation.copy_paste={chance}")) for chance in (0, 0.5, 1))
    counts = [
        [len(data[key][1]["labels"]) for key in ((epoch, 0) for epoch in range(8))]
        for data in (plain.train.dataset, half.train.dataset, pasted.train.dataset)
    ]
    assert set(counts[0]) == {2}
    assert sum(counts[0]) < sum(counts[1]) < sum(counts[2])
    torch.testing.assert_close(plain.val.dataset[0][0], pasted.val.dataset[0][0])


def test_an_unreadable_donor_is_named_and_the_image_kept(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco(2)
    roboflow(tmp_path / "data", coco)
    (tmp_path / "data" / "train" / "2.png").write_bytes(b"broken")
    data = pasting(tmp_path, configure, skip_bad_images=True)
    samples = [data.__getitems__([(epoch, 0)])[0] for epoch in range(6)]
    assert all(sample.target["image_id"] == 1 for sample in samples)
    assert any("2.png" in fault for sample in samples for fault in sample.faults)
    error = pasting(tmp_path, configure).__getitems__([(epoch, 0) for epoch in range(6)])
    assert isinstance(error, ImageError)
    assert "2.png" in str(error)


def test_pasted_masks_follow_their_pixels(tmp_path: Path, configure: Configure) -> None:
    """Every image is one colour with objects of another, so that the pixels tell what the masks should be."""
    from PIL import Image

    coco = small_coco(2)
    coco["annotations"] = [annotation(1, 1, 3, 5, 5, 20), annotation(2, 2, 7, 10, 20, 25)]
    roboflow(tmp_path / "data", coco)
    for number, size, (x, y, side) in ((1, (60, 40), (5, 5, 20)), (2, (40, 60), (10, 20, 25))):
        pixels = np.zeros((*size[::-1], 3), dtype=np.uint8)
        pixels[y : y + side, x : x + side] = 255
        Image.fromarray(pixels).save(tmp_path / "data" / "train" / f"{number}.png")
    assert square(5, 5, 20)[4:6] == [25, 25]
    data = pasting(tmp_path, configure)
    for epoch in range(6):
        pixels, target, _ = data[(epoch, 0)]
        masks = dense(target)
        assert masks.sum(axis=0).max() <= 1
        assert ((pixels[0].numpy() > 127) != (masks.sum(axis=0) > 0)).sum() <= 2 * 30
