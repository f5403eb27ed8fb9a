"""Outlines enclose the pixels that the masks have."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from maskrcnn_train.reporting.drawing.outlines import box_path, mask_path, simplified, trace


def blob(height: int = 90, width: int = 120) -> np.ndarray:
    """A ring, a bar that touches it by a corner, and a single pixel."""
    y, x = np.mgrid[:height, :width]
    distance = (y - 45) ** 2 + (x - 50) ** 2
    inside = (distance < 40**2) & (distance > 20**2)
    inside[5:15, 95:118] = True
    inside[88, 3] = True
    return inside


def signed_area(loop: np.ndarray) -> float:
    x, y = loop.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def drawn(path: str, size: tuple[int, int], scale: int) -> np.ndarray:
    """The inside of a path by the even-odd rule, each loop drawn on its own."""
    inside = np.zeros((size[1] * scale, size[0] * scale), bool)
    for part in path.strip("Mz").split("zM"):
        points = [tuple(scale * float(value) - 0.5 for value in pair.split()) for pair in part.split("L")]
        sheet = Image.new("1", (size[0] * scale, size[1] * scale))
        ImageDraw.Draw(sheet).polygon(points, fill=1)
        inside ^= np.asarray(sheet)
    return inside


def test_loops_go_around_the_pixels_and_the_holes() -> None:
    inside = blob()
    loops = trace(inside)
    assert len(loops) == 4
    signs = sorted(np.sign(signed_area(loop)) for loop in loops)
    assert signs == [-1, 1, 1, 1]  # the hole runs the other way
    # each corner that the middles of the edges cut off is an eighth of a pixel; inner corners give it back
    assert sum(map(signed_area, loops)) == pytest.approx(inside.sum(), abs=0.5 * len(loops))


def test_a_path_covers_what_the_mask_covers() -> None:
    inside = blob()
    again = drawn(mask_path(0, 0, inside.astype(np.uint8), 1.0), (120, 90), 4)
    pixels = np.kron(inside, np.ones((4, 4), bool))
    assert (again & pixels).sum() / (again | pixels).sum() > 0.95


def test_a_path_is_placed_and_scaled_with_the_picture() -> None:
    numbers = (
        mask_path(100, 20, np.ones((40, 60), np.uint8), 0.5).replace("M", " ").replace("L", " ").strip("z").split()
    )
    xs, ys = np.array(numbers, float).reshape(-1, 2).T
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == pytest.approx((50, 80, 10, 30), abs=0.5)
    assert box_path((100, 20, 60, 40), 0.5) == "M50 10L80 10L80 30L50 30z"


def test_few_points_are_left_and_none_is_far_off() -> None:
    angles = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    circle = 100 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    fewer = simplified(circle, 0.8)
    assert len(fewer) < 60
    ends = np.roll(fewer, -1, axis=0)
    middles = (fewer + ends) / 2
    assert np.linalg.norm(middles, axis=1).min() > 99


def test_an_empty_mask_has_no_path() -> None:
    assert mask_path(0, 0, np.zeros((3, 3), np.uint8), 1.0) == ""
