"""Outlines enclose the pixels that the masks have."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from maskrcnn_train.reporting.drawing.outlines import box_path, mask_path


def blob(height: int = 90, width: int = 120) -> np.ndarray:
    """A ring, a bar that touches it by a corner, and a single pixel."""
    y, x = np.mgrid[:height, :width]
    distance = (y - 45) ** 2 + (x - 50) ** 2
    inside = (distance < 40**2) & (distance > 20**2)
    inside[5:15, 95:118] = True
    inside[88, 3] = True
    return inside


def drawn(path: str, size: tuple[int, int], scale: int) -> np.ndarray:
    """The inside of a path by the even-odd rule, each loop drawn on its own."""
    inside = np.zeros((size[1] * scale, size[0] * scale), bool)
    for part in path.strip("Mz").split("zM"):
        points = [tuple(scale * float(value) - 0.5 for value in pair.split()) for pair in part.split("L")]
        sheet = Image.new("1", (size[0] * scale, size[1] * scale))
        ImageDraw.Draw(sheet).polygon(points, fill=1)
        inside ^= np.asarray(sheet)
    return inside


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


def test_an_empty_mask_has_no_path() -> None:
    assert mask_path(0, 0, np.zeros((3, 3), np.uint8), 1.0) == ""
