"""Outlines of masks: where they run, how many points they have, and the pixels that they give again."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn_train.data.coco.masks import polygon_crop
from maskrcnn_train.structures.outlines import ellipse, joined, simplified, trace


def blob(height: int = 90, width: int = 120) -> np.ndarray:
    """A ring with an island in it, a bar, and a single pixel."""
    y, x = np.mgrid[:height, :width]
    distance = (y - 45) ** 2 + (x - 50) ** 2
    inside = (distance < 5**2) | ((distance < 40**2) & (distance > 20**2))
    inside[5:15, 95:118] = True
    inside[88, 3] = True
    return inside


def signed_area(loop: np.ndarray) -> float:
    x, y = loop.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def pixels(loop: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return polygon_crop([loop.ravel()], shape, (0, 0, *shape[::-1])) > 0


def test_regions_have_a_loop_around_them_and_one_around_each_hole() -> None:
    inside = blob()
    regions = trace(inside)
    assert sorted(map(len, regions)) == [1, 1, 1, 2]
    assert all(signed_area(region[0]) > 0 for region in regions)
    assert all(signed_area(hole) < 0 for region in regions for hole in region[1:])
    # each corner that the middles of the edges cut off is an eighth of a pixel; inner corners give it back
    total = sum(signed_area(loop) for region in regions for loop in region)
    assert total == pytest.approx(inside.sum(), abs=0.5 * 5)


@pytest.mark.parametrize("tolerance", [0, 0.3])
def test_one_line_through_parts_and_holes_gives_the_same_pixels_again(tolerance: float) -> None:
    inside = blob()
    line = joined([simplified(loop, tolerance) for region in trace(inside) for loop in region])
    assert (pixels(line, inside.shape) == inside).all()


def test_few_points_are_left_and_none_is_far_off() -> None:
    angles = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    circle = 100 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    fewer = simplified(circle, 0.8)
    assert len(fewer) < 60
    ends = np.roll(fewer, -1, axis=0)
    middles = (fewer + ends) / 2
    assert np.linalg.norm(middles, axis=1).min() > 99
    square = np.array([[0.0, 0], [20, 0], [20, 10], [20, 20], [0, 20]])
    assert simplified(square, 0.5).tolist() == square[[0, 1, 3, 4]].tolist()


def test_a_loop_that_would_vanish_stays() -> None:
    diamond = trace(np.ones((1, 1), bool))[0][0]
    assert len(simplified(diamond, 0.6)) >= 3
    assert len(simplified(diamond, 5.0)) >= 3


def test_an_ellipse_is_turned_and_has_its_area() -> None:
    loop = ellipse((50, 40), (30, 10), 90)
    assert (loop.max(axis=0) - loop.min(axis=0)).tolist() == pytest.approx([20, 60], abs=0.2)
    assert signed_area(loop) == pytest.approx(np.pi * 300, rel=0.01)
