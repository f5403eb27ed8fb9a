"""How sure a score is: it is taken again of many random draws of the images, with replacement.

The bootstrap over images (Efron 1979): images are the independent units of a validation set, objects are
not. Two models are compared on the same draws, so that easy and hard images weigh the same for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskrcnn_train.evaluation.coco.metrics import AREA_NAMES, CocoResult, area_ranges, single_ious
from maskrcnn_train.evaluation.diagnostics.matches import Matches, average_precision, match_detections
from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps
from maskrcnn_train.structures.arrays import Floats, Ints

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
FEWEST_IMAGES = 2  # with objects; with one, every draw gives the same score
TOO_FEW_IMAGES = f"fewer than {FEWEST_IMAGES} images have such objects"
NUMBERS_AT_ONCE = 4_000_000  # weights of detections: bounds the memory to about 200 MB


@dataclass
class Interval:
    """value: of all images; low, high: the interval that holds the score of such images with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass
class Difference:
    """b - a of one score on the same draws; `clear` where 0 lies outside low..high, None with TOO_FEW_IMAGES."""

    value: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def draw_images(num_images: int, num_draws: int, seed: int) -> Ints:
    """How often each image is in each draw: int64 [1 + B, I], I > 0; the first row is every image once."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=num_draws)
    return np.concatenate([np.ones((1, num_images), np.int64), drawn])


def drawn_scores(matches: Matches, draws: Ints, *, recall: bool = False) -> Floats:
    """AP of each IoU threshold in each draw, mean over the classes with objects in it: float [B, T], NaN if none.

    NaN in all draws but the first where fewer than FEWEST_IMAGES have objects. recall: the share of the objects that
    are found instead of AP.
    """
    sums = np.zeros((len(draws), len(matches.hits)))
    counts = np.zeros(len(draws))
    for number in np.unique(matches.object_classes):
        objects = matches.object_classes == number
        weights = draws[:, matches.object_images[objects]]
        totals = weights.sum(axis=1)
        if recall:
            score = weights @ matches.found[:, objects].T / np.maximum(totals, 1)[:, None]
        else:
            score = _class_ap(matches, number, draws, totals)
        present = totals > 0
        sums[present] += score[present]
        counts += present
    with np.errstate(invalid="ignore"):
        scores = sums / counts[:, None]
    if len(np.unique(matches.object_images)) < FEWEST_IMAGES:
        scores[1:] = np.nan
    return np.asarray(scores)


def _class_ap(matches: Matches, number: int, draws: Ints, totals: Ints) -> Floats:
    own = np.flatnonzero(matches.classes == number)
    hits, ignored, images = matches.hits[:, own], matches.ignored[:, own], matches.images[own]
    size = max(1, NUMBERS_AT_ONCE // max(len(own), 1))
    parts = [slice(start, start + size) for start in range(0, len(draws), size)]
    return np.concatenate([average_precision(hits, ignored, draws[part, images], totals[part]) for part in parts])


def headline_draws(overlaps: Sequence[ImageOverlaps], result: CocoResult, draws: Ints) -> dict[str, Floats]:
    """AP, AP50, AP75, APs, APm, APl and AR of each draw: float [1 + B], the first that of all images."""
    everything, *sizes = (
        match_detections(overlaps, iou_thresholds=result.iou_thresholds, area_range=limits)
        for limits in area_ranges(result.size_limits)
    )
    of_all = drawn_scores(everything, draws)
    scores = {"AP": of_all.mean(axis=1)}
    for row, iou in single_ious(result.iou_thresholds):
        scores[f"AP{100 * iou:.0f}"] = of_all[:, row]
    for name, matches in zip(AREA_NAMES[1:], sizes, strict=True):
        scores[f"AP{name[0]}"] = drawn_scores(matches, draws).mean(axis=1)
    scores[f"AR{result.max_detections[-1]}"] = drawn_scores(everything, draws, recall=True).mean(axis=1)
    return scores


def interval(scores: Floats) -> Interval | None:
    """The interval of one score from its draws; None where there is nothing to score, or TOO_FEW_IMAGES."""
    middle = _middle(scores)
    return Interval(float(scores[0]), max(middle[0], 0.0), min(middle[1], 1.0)) if middle else None


def difference(first: Floats, second: Floats) -> Difference | None:
    """second - first, draw by draw; None where either is absent.

    Moving the draws (see `_middle`) takes no end beyond -1 or 1, and none across 0: it makes no difference clear.
    """
    change = second - first
    if np.isnan(change[0]):
        return None
    middle = _middle(change)
    if middle is None:
        return Difference(float(change[0]), None, None)
    low, high = max(middle[0], -1.0), min(middle[1], 1.0)
    drawn_low, drawn_high = np.nanquantile(change[1:], TAILS)
    if drawn_low <= 0 <= drawn_high:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(float(change[0]), low, high)


def _middle(scores: Floats) -> tuple[float, float] | None:
    """The middle 95 % of the draws (all but the first), moved so that their mean is the value of all images; or None.

    AP of a draw is too high on average: a hit that is drawn twice is a hit twice, in a row.
    """
    draws = scores[1:][~np.isnan(scores[1:])]
    if not len(draws):
        return None
    low, high = np.quantile(draws, TAILS) - draws.mean() + scores[0]
    return float(low), float(high)
