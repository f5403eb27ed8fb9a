"""Whether a score means what it says: of the detections scored .7, are 7 in 10 right?"""

from __future__ import annotations

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
    scores, hits = matches.scores[counted], matches.hits[0, counted].astype(float)
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    means, shares = (np.bincount(bins, values, BINS) / np.maximum(counts, 1) for values in (scores, hits))
    error = float((counts * np.abs(means - shares)).sum() / max(len(scores), 1))
    return Calibration(
        iou=iou,
        counts=counts.tolist(),
        scores=[float(mean) if count else None for mean, count in zip(means, counts, strict=True)],
        precision=[float(share) if count else None for share, count in zip(shares, counts, strict=True)],
        error=error,
    )
