"""Whether a score means what it says: of the detections scored .7, are 7 in 10 right?"""

from dataclasses import dataclass

import numpy as np

from maskrcnn_train.evaluation.diagnostics.matches import Matches

BINS = 10
ROUNDING = 1e-6  # by which a sum of float32 probabilities may leave 0 to 1


@dataclass
class Calibration:
    """Detections by score in ten equal bins: their number, mean score and share that is right (None: empty bin).

    error: expected calibration error (Naeini et al. 2015), the mean of |score - share| weighted by the numbers.
    """

    iou: float
    counts: list[int]
    scores: list[float | None]
    precision: list[float | None]
    error: float


def calibrate(matches: Matches, *, iou: float) -> Calibration | None:
    """matches: at `iou` alone. Detections of crowd regions are left out.

    None where a score lies outside 0 to 1 (logits, percents): then scores are not probabilities.
    """
    if matches.scores.min(initial=0.0) < -ROUNDING or matches.scores.max(initial=1.0) > 1 + ROUNDING:
        return None
    counted = ~matches.ignored[0]
    values = matches.scores[counted], matches.hits[0, counted].astype(float)
    bins = np.minimum((values[0] * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    means, shares = (np.bincount(bins, each, BINS) / np.maximum(counts, 1) for each in values)
    error = float((counts * np.abs(means - shares)).sum() / max(len(bins), 1))
    scores, precision = (
        [float(v) if n else None for v, n in zip(each, counts, strict=True)] for each in (means, shares)
    )
    return Calibration(iou, counts.tolist(), scores, precision, error)
