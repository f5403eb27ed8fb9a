"""How many objects of each size are found: finer than COCO's three sizes, and without their AP."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskrcnn_train.evaluation.diagnostics.matches import Matches
from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps

SIDES = (0, 16, 32, 64, 96, 128, 256, 512)  # where the buckets begin: square roots of areas, image pixels


@dataclass
class SizeBucket:
    """Objects with low <= side < high (None: no limit).

    found, found_above_threshold: shares with a right detection of any score, or from the score threshold on.
    """

    low: float
    high: float | None
    objects: int
    found: float
    found_above_threshold: float


def size_buckets(overlaps: Sequence[ImageOverlaps], matches: Matches, confident: Matches) -> list[SizeBucket]:
    """The buckets that have objects. matches: at one IoU; confident: those of the detections above a score."""
    areas = [image.object_areas for image in overlaps]
    pairs = zip(matches.object_images, matches.object_rows, strict=True)
    sides = np.sqrt([areas[image][row] for image, row in pairs])
    bucket = np.searchsorted(SIDES, sides, side="right") - 1
    buckets = []
    for number, (low, high) in enumerate(zip(SIDES, (*SIDES[1:], None), strict=True)):
        own = bucket == number
        if own.any():
            shares = [float(each.found[0, own].mean()) for each in (matches, confident)]
            buckets.append(SizeBucket(low, high, int(own.sum()), *shares))
    return buckets
