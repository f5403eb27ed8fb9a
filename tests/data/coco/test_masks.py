from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn_train.data.coco.masks import (
    decode_counts,
    polygon_crop,
    read_code,
    runs_crop,
    runs_extent,
    scaled_runs_crop,
)

# pycocotools 2.0.11 decodes with a numpy protocol of before 2.0
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def random_polygons(rng: np.random.Generator, height: int, width: int) -> list[np.ndarray]:
    parts = []
    for _ in range(rng.integers(1, 4)):
        centre, reach = rng.uniform(-20, [width + 20, height + 20]), rng.uniform(1, 150)
        points = centre + rng.uniform(-reach, reach, (rng.integers(3, 12), 2))
        step = rng.choice([0, 1, 2, 10])
        parts.append((np.round(points * step) / step if step else points).ravel())
    return parts


def test_polygon_crops_equal_the_whole_image_cropped() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(5, 400, 2).tolist()
        parts = random_polygons(rng, height, width)
        whole = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([p.tolist() for p in parts], height, width)))
        points = np.concatenate(parts).reshape(-1, 2)
        x0, y0 = np.clip(np.floor(points.min(axis=0)), 0, [width, height]).astype(int).tolist()
        x1, y1 = np.clip(np.ceil(points.max(axis=0)), 0, [width, height]).astype(int).tolist()
        if x0 >= x1 or y0 >= y1:
            assert whole.sum() == 0
            continue
        np.testing.assert_array_equal(polygon_crop(parts, (height, width), (x0, y0, x1, y1)), whole[y0:y1, x0:x1])
        assert whole[y0:y1, x0:x1].sum() == whole.sum()


def random_bitmap(rng: np.random.Generator) -> np.ndarray:
    return np.asfortranarray((rng.random(rng.integers(1, 50, 2)) < rng.random()).astype(np.uint8))


def test_run_lengths_equal_pycocotools() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        bitmap = random_bitmap(rng)
        encoded = coco_mask.encode(bitmap)
        size = bitmap.shape[0], bitmap.shape[1]
        named, runs = read_code({"size": list(size), "counts": encoded["counts"].decode()})
        assert runs is not None
        assert named == size
        np.testing.assert_array_equal(runs_crop(runs, size[0], (0, 0, size[1], size[0])), bitmap)
        box, area = runs_extent(runs, size[0])
        assert area == bitmap.sum()
        x, y, w, h = coco_mask.toBbox(encoded).astype(int).tolist()
        assert box == (x, y, x + w, y + h) or area == 0


def test_a_crop_of_runs_equals_the_bitmap_cropped() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        bitmap = random_bitmap(rng)
        height, width = bitmap.shape
        runs = decode_counts(coco_mask.encode(bitmap)["counts"])
        assert runs is not None
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        x1, y1 = int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1))
        np.testing.assert_array_equal(runs_crop(runs.astype(np.uint32), height, (x0, y0, x1, y1)), bitmap[y0:y1, x0:x1])


def test_scaled_runs_keep_the_shape() -> None:
    bitmap = np.zeros((40, 60), dtype=np.uint8, order="F")
    bitmap[10:30, 20:40] = 1
    runs = decode_counts(coco_mask.encode(bitmap)["counts"])
    assert runs is not None
    half = scaled_runs_crop(runs.astype(np.uint32), (40, 60), (0, 0, 30, 20), (0.5, 0.5), (0, 0, 60, 40))
    np.testing.assert_array_equal(half, bitmap[::2, ::2])
    double = scaled_runs_crop(runs.astype(np.uint32), (40, 60), (30, 10, 90, 70), (2.0, 2.0), (0, 0, 60, 40))
    np.testing.assert_array_equal(double, np.kron(bitmap, np.ones((2, 2), dtype=np.uint8))[10:70, 30:90])


@pytest.mark.parametrize("text", [b"", b"o", b"\x00", b"oooooooo0", b"\xff"])
def test_malformed_counts_are_not_decoded(text: bytes) -> None:
    assert decode_counts(text) is None


def test_random_bytes_are_run_lengths_or_nothing() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        text = bytes(rng.integers(48, 112, rng.integers(1, 30)).astype(np.uint8))
        runs = read_code({"size": [30, 40], "counts": text.decode()})[1]
        assert runs is None or (runs >= 0).all()


@pytest.mark.parametrize("size", [None, [4], [0, 5], [4, -5], [4, float("inf")], [4, 2**40], "45", [4, "5"]])
def test_an_rle_without_a_usable_size_names_none(size: object) -> None:
    assert read_code({"size": size, "counts": [20]})[0] == (0, 0)
