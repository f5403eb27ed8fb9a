"""Tiles: they cover the image, and what their borders cut becomes whole again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from maskrcnn_train.prediction.tiling import merge_tiles
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.tiles import Tiles, Window

Rectangle = tuple[int, int, int, int]  # x0 y0 x1 y1


def seen(window: Window, objects: list[tuple[Rectangle, int, float]], with_masks: bool) -> Detections:
    """What a faultless model finds in a tile: the visible part of each object, a rectangle of a label and score."""
    x0, y0, x1, y1 = window
    parts = []
    for (left, top, right, bottom), label, score in objects:
        box = max(left, x0) - x0, max(top, y0) - y0, min(right, x1) - x0, min(bottom, y1) - y0
        if box[0] < box[2] and box[1] < box[3]:
            parts.append((box, label, score))
    crops = [(box[0], box[1], np.ones((box[3] - box[1], box[2] - box[0]), np.uint8)) for box, _, _ in parts]
    return Detections(
        boxes=torch.tensor([box for box, _, _ in parts], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([label for _, label, _ in parts], dtype=torch.int64),
        scores=torch.tensor([score for _, _, score in parts]),
        size=(y1 - y0, x1 - x0),
        classes=ClassMap(names=["b", "c"], ids=[10, 20]),
        pasted=crops if with_masks else None,
    )


def merged(size: tuple[int, int], objects: list[tuple[Rectangle, int, float]], with_masks: bool = True) -> Detections:
    windows = Tiles(100, 0.3).windows(size)
    return merge_tiles(windows, [seen(window, objects, with_masks) for window in windows], size)


@pytest.mark.parametrize("size", [(50, 80), (100, 100), (101, 350), (999, 170)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_tiles_cover_the_image_and_overlap_as_asked(size: tuple[int, int], overlap: float) -> None:
    windows = Tiles(100, overlap).windows(size)
    covered = np.zeros(size, bool)
    for x0, y0, x1, y1 in windows:
        assert x1 - x0 == min(100, size[1])
        assert y1 - y0 == min(100, size[0])
        assert min(x0, y0) >= 0
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    columns = sorted({window[0] for window in windows})
    assert all(100 - (b - a) >= 100 * overlap - 1 for a, b in itertools.pairwise(columns))


@pytest.mark.parametrize(("size", "overlap"), [(0, 0.2), (100, 1.0), (100, 25), (100, -0.1)])
def test_tiles_that_never_cover_an_image_are_refused(size: int, overlap: float) -> None:
    with pytest.raises(ValueError, match=r"give size=1024, overlap=0\.2"):
        Tiles(size, overlap)


@pytest.mark.parametrize("with_masks", [True, False])
def test_objects_cut_by_borders_become_whole(with_masks: bool) -> None:
    objects = [
        ((10, 10, 290, 90), 1, 0.9),  # over four tiles in a row
        ((60, 120, 110, 160), 1, 0.8),  # cut by one border
        ((75, 165, 95, 185), 2, 0.7),  # whole in two tiles
        ((200, 130, 210, 140), 2, 0.6),  # in one only
    ]
    found = merged((200, 300), objects, with_masks)
    assert [tuple(box) for box in found.boxes.int().tolist()] == [each[0] for each in objects]
    assert found.labels.tolist() == [1, 1, 2, 2]
    assert found.class_names == ["b", "b", "c", "c"]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    if with_masks:
        areas = [(x1 - x0) * (y1 - y0) for (x0, y0, x1, y1), _, _ in objects]
        assert found.bitmaps().sum(axis=(1, 2)).tolist() == areas
    else:
        assert not found.has_masks


def test_neighbours_and_other_classes_stay_apart() -> None:
    objects = [((40, 10, 84, 60), 1, 0.9), ((86, 10, 130, 60), 1, 0.8), ((40, 10, 130, 60), 2, 0.7)]
    found = merged((100, 170), objects)
    assert len(found) == 3


def test_the_best_score_counts_and_nothing_stays_nothing() -> None:
    windows = Tiles(100, 0.3).windows((100, 170))
    whole = ((40, 10, 130, 60), 1)
    parts = [seen(window, [(*whole, score)], True) for window, score in zip(windows, (0.6, 0.95), strict=True)]
    assert merge_tiles(windows, parts, (100, 170)).scores.tolist() == pytest.approx([0.95])
    empty = merged((100, 170), [])
    assert len(empty) == 0
    assert empty.boxes.shape == (0, 4)


@pytest.mark.parametrize("with_masks", [True, False])
def test_a_cut_object_is_joined_though_the_tiles_see_it_unalike(with_masks: bool) -> None:
    windows, size = Tiles(100, 0.3).windows((100, 170)), (100, 170)
    assert windows[1][0] == 70
    left = seen(windows[0], [((40, 10, 99, 60), 1, 0.9)], with_masks)  # a little short of the border
    right = seen(windows[1], [((90, 10, 130, 60), 1, 0.8)], with_masks)  # a third of the strip that both see
    found = merge_tiles(windows, [left, right], size)
    assert found.boxes.tolist() == [[40, 10, 130, 60]]
    whole = seen(windows[0], [((72, 0, 92, 60), 1, 0.9)], with_masks)  # not cut: two objects side by side
    other = seen(windows[1], [((82, 0, 97, 60), 1, 0.8)], with_masks)
    assert len(merge_tiles(windows, [whole, other], size)) == 2
    one_in_another = [((40, 10, 130, 60), 1, 0.9), ((60, 20, 130, 50), 1, 0.8)]  # one tile tells them apart
    both, nothing = (seen(windows[0], each, with_masks) for each in (one_in_another, []))
    assert len(merge_tiles(windows, [both, nothing], size)) == 2


@pytest.mark.parametrize("with_masks", [True, False])
def test_tiles_that_do_not_agree_are_joined_by_those_between(with_masks: bool) -> None:
    windows = Tiles(100, 0.3).windows((170, 170))
    bars = [(10, 20, 40, 100), (130, 20, 160, 100), (10, 70, 100, 160), (70, 70, 160, 160)]  # of a U
    parts = [seen(window, [(bar, 1, 0.9)], with_masks) for window, bar in zip(windows, bars, strict=True)]
    assert merge_tiles(windows, parts, (170, 170)).boxes.tolist() == [[10, 20, 160, 160]]
