"""Masks as outlines: traced around their pixels, with fewer points, and with holes cut open to one closed line.

COCO counts a pixel as inside a polygon if its middle is. The points of `trace` are the middles of pixel edges, so that
slopes are slopes rather than stairs, and a traced outline gives the same pixels again. Coordinates here are float
[n, 2], x y, in pixels whose top left corner is (0, 0).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator

from maskrcnn_train.structures.arrays import Flags, Floats

ARC_ERROR = 0.05  # pixels that the outline of an ellipse may be off


def trace(inside: Flags) -> list[list[Floats]]:
    """The separate regions of a mask bool [h, w]: of each the loop around it, then those around its holes."""
    padded = np.pad(inside, 1).astype(np.float64)
    generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    regions = []
    for points, offsets in zip(*generator.filled(0.5, 2.0), strict=True):
        bounds = offsets.astype(np.int64)
        regions.append([points[a : b - 1] - 0.5 for a, b in pairwise(bounds.tolist())])
    return regions


def simplified(loop: Floats, tolerance: float) -> Floats:
    """A closed loop with fewer of its points; those left out are at most `tolerance` pixels away from it.

    Douglas and Peucker 1973, from two points that are far apart. A loop that would vanish stays as it is.
    """
    if len(loop) < 4:
        return loop
    start = int(np.argmin(loop.sum(axis=1)))
    loop = np.roll(loop, -start, axis=0)
    far = int(np.argmax(((loop - loop[0]) ** 2).sum(axis=1)))
    closed = np.vstack([loop, loop[:1]])
    kept = np.zeros(len(closed), dtype=bool)
    kept[[0, far, -1]] = True
    pending = [(0, far), (far, len(loop))]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        worst = int(np.argmax(distances))
        if distances[worst] > tolerance:
            middle = first + 1 + worst
            kept[middle] = True
            pending += [(first, middle), (middle, last)]
    found = closed[:-1][kept[:-1]]
    return found if len(found) > 2 else loop


def _distances(points: Floats, first: Floats, last: Floats) -> Floats:
    """Of each point from the line between two points."""
    along = last - first
    length = float(along @ along)
    share = np.clip((points - first) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.asarray(np.sqrt(((points - first - share[:, None] * along) ** 2).sum(axis=1)))


def signed_area(loop: Floats) -> float:
    """Of a closed loop: above 0 for the loops around the regions of `trace`, below 0 for those around holes."""
    after = np.roll(loop, -1, axis=0)
    return float((loop[:, 0] * after[:, 1] - after[:, 0] * loop[:, 1]).sum()) / 2


def joined(loops: Sequence[Floats]) -> Floats:
    """One closed line through several loops, parts or holes, along cuts without width.

    Whatever lies inside an odd number of the loops lies inside the line. Each loop is entered and left at one point.
    """
    line = loops[0]
    for loop in loops[1:]:
        # both ends of the shortest cut; a few of the points of long loops are enough to find a short one
        steps = [1 + len(each) // 200 for each in (line, loop)]
        gaps = ((line[:: steps[0], None] - loop[None, :: steps[1]]) ** 2).sum(axis=2)
        a, b = (int(row) * step for row, step in zip(np.unravel_index(gaps.argmin(), gaps.shape), steps, strict=True))
        around = np.roll(loop, -b, axis=0)
        line = np.concatenate([line[: a + 1], around, around[:1], line[a:]])
    return line


def ellipse(center: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0) -> Floats:
    """The outline of an ellipse, turned clockwise on the screen, with enough points that it looks round."""
    largest = max(*radii, ARC_ERROR)
    count = min(max(8, math.ceil(math.pi / math.acos(1 - min(ARC_ERROR / largest, 1.0)))), 720)
    angles = np.arange(count) * 2 * math.pi / count
    return turned(np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1), degrees) + center


def turned(points: Floats, degrees: float) -> Floats:
    """Points turned around (0, 0), clockwise on the screen."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]))
