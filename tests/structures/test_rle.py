import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn_train.structures.rle import compress_runs, compressed, crop_runs, decode_crop


def encode_crop(bitmap, x0, y0, size):
    return compress_runs([crop_runs(bitmap, x0, y0, size)], size)[0]


def random_crop(rng):
    """A crop somewhere in a small image, often touching its borders, with the full-size mask."""
    height, width = (int(v) for v in rng.integers(1, 14, 2))
    h = height if rng.random() < 0.3 else int(rng.integers(1, height + 1))
    w = width if rng.random() < 0.3 else int(rng.integers(1, width + 1))
    y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    bitmap = (rng.random((h, w)) < rng.choice([0, 0.1, 0.5, 0.9, 1])).astype(np.uint8)
    full = np.zeros((height, width), np.uint8, order="F")
    full[y : y + h, x : x + w] = bitmap
    return bitmap, x, y, full


def test_a_crop_encodes_as_its_full_size_mask():
    rng = np.random.default_rng(0)
    for _ in range(600):
        bitmap, x, y, full = random_crop(rng)
        expected = coco_mask.encode(full)
        assert encode_crop(bitmap, x, y, full.shape) == {
            "size": list(full.shape),
            "counts": expected["counts"].decode(),
        }


def test_a_code_decodes_to_the_crop_of_its_own_box():
    bitmap = np.array([[1, 0, 1], [0, 1, 0]], np.uint8)
    code = encode_crop(bitmap, 4, 1, (5, 9))
    runs = {"size": [5, 9], "counts": [21, 1, 5, 1, 3, 1, 13]}
    for form in (code, runs):
        x0, y0, found = decode_crop(form)
        assert (x0, y0) == (4, 1)
        assert (found == bitmap).all()


def test_polygons_and_plain_counts_compress_to_the_code_of_their_mask():
    code = encode_crop(np.ones((3, 3), np.uint8), 2, 1, (5, 9))
    halves = [[2, 1, 4, 1, 4, 4, 2, 4], [3, 1, 5, 1, 5, 4, 3, 4]]
    for form in (halves, {"size": [5, 9], "counts": [11, 3, 2, 3, 2, 3, 21]}, code):
        found = compressed(form, (5, 9))
        assert list(found["size"]) == code["size"]
        counts = found["counts"]
        assert (counts.decode() if isinstance(counts, bytes) else counts) == code["counts"]


def test_an_empty_crop_is_an_empty_mask():
    code = encode_crop(np.zeros((0, 0), np.uint8), 0, 0, (6, 4))
    assert code["counts"] == coco_mask.encode(np.zeros((6, 4), np.uint8, order="F"))["counts"].decode()


def test_a_crop_outside_the_image_is_refused():
    with pytest.raises(ValueError, match="leaves the image"):
        encode_crop(np.ones((3, 3), np.uint8), 2, 0, (4, 4))
