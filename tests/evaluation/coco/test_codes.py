"""Codes of masks: read as pycocotools reads them, and refused where it would be fooled."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn_train.evaluation.coco.codes import DAMAGED, code_areas


def random_masks(seed, count=60):
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        size = rng.integers(1, 90, 2)
        coarse = rng.random(rng.integers(1, 12, 2)) < rng.random()
        rows, columns = (np.arange(s) * c // s for s, c in zip(size, coarse.shape, strict=True))
        masks.append(np.asfortranarray(coarse[rows][:, columns].astype(np.uint8)))
    large = np.zeros((900, 700), np.uint8, order="F")
    large[100:850, 30:600] = 1
    return [*masks, large, np.zeros((3, 4), np.uint8, order="F"), np.ones((3, 4), np.uint8, order="F")]


def encoded(masks):
    return [coco_mask.encode(mask)["counts"].decode() for mask in masks]


@pytest.mark.parametrize("seed", range(4))
def test_areas_are_those_of_the_masks(seed):
    masks = random_masks(seed)
    assert code_areas(encoded(masks), [mask.size for mask in masks]).tolist() == [int(mask.sum()) for mask in masks]
    assert code_areas([], []).tolist() == []


def test_damaged_codes_are_found_and_spoil_no_other():
    masks = random_masks(1)
    codes, pixels = encoded(masks), [mask.size for mask in masks]
    areas = [int(mask.sum()) for mask in masks]
    for index in (0, 17, len(codes) - 1):
        code = codes[index]
        for damaged in (code + "1", code[:-1], "\x01" + code, code + "\xe9", "", code + "P", "o" * 40):
            found = code_areas([*codes[:index], damaged, *codes[index + 1 :]], pixels)
            assert found.tolist() == [*areas[:index], DAMAGED, *areas[index + 1 :]]


def test_a_run_below_zero_is_damage_even_where_the_sum_is_right():
    assert code_areas(["532"], [10]).tolist() == [3]  # runs 5, 3, 2
    assert code_areas(["5M2"], [4]).tolist() == [DAMAGED]  # runs 5, -3, 2


def test_a_number_with_more_digits_than_its_type_holds_is_damage() -> None:
    short, long = "0V" + "P" * 10 + "0", "0V" + "P" * 11 + "1"  # runs 0, 6, and 0, 6 + 2**60, which was read as 6
    assert code_areas([short, long, "04"], [6, 6, 4]).tolist() == [6, DAMAGED, 4]
