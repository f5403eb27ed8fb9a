"""Which of many settings are worth having: those that no other setting beats in both speed and AP.

They are chosen on one half of the images and reported on the other, so that luck does not count.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from maskrcnn_train.analysis.budgets import BudgetTracer, Setting
from maskrcnn_train.evaluation.coco.evaluators import ABSENT
from maskrcnn_train.evaluation.coco.ground_truth import of_images

NOTHING_CHOSEN = (
    "No setting was chosen: the half of the images that settings are chosen on has no objects, and so no AP; "
    "take more images (max_images), other ones (seed) or another split"
)
Score = Callable[[list[dict[str, Any]], dict[str, Any]], float]


@dataclass
class Outcome:
    """Speed and AP of one setting.

    tuned, reported: AP on the half that settings are chosen on, and on the other half; ABSENT without objects, None
    where it was not measured. milliseconds: of an image, from the times of the stages. proposals, detections: mean
    numbers per image. front: no other setting is both faster and better on the first half.
    """

    setting: Setting
    milliseconds: float
    proposals: float
    detections: float
    tuned: float
    reported: float | None = None
    front: bool = False


def halves(image_ids: Sequence[int], seed: int) -> tuple[set[int], set[int]]:
    """The images in two halves, drawn at random."""
    shuffled = sorted(image_ids)
    random.Random(seed).shuffle(shuffled)
    middle = (len(shuffled) + 1) // 2
    return set(shuffled[:middle]), set(shuffled[middle:])


def outcomes(tracer: BudgetTracer, ground_truth: dict[str, Any], score: Score, *, seed: int) -> list[Outcome]:
    """An outcome for each setting, in their order; `reported` for the first (the trained one) and for the front.

    score: AP of COCO results on a COCO ground truth.
    """
    parts = [
        (ids, of_images(ground_truth, ids)) for ids in halves([each["id"] for each in ground_truth["images"]], seed)
    ]

    def average_precision(number: int, half: int) -> float:
        ids, truth = parts[half]
        return score([result for result in tracer.results[number] if result["image_id"] in ids], truth)

    images = max(tracer.num_images, 1)
    found = [
        Outcome(
            setting=setting,
            milliseconds=tracer.milliseconds(number),
            proposals=tracer.num_proposals[number] / images,
            detections=len(tracer.results[number]) / images,
            tuned=average_precision(number, 0),
        )
        for number, setting in enumerate(tracer.settings)
    ]
    mark_front(found)
    for number, outcome in enumerate(found):
        if outcome.front or number == 0:
            outcome.reported = average_precision(number, 1)
    return found


def mark_front(found: Sequence[Outcome]) -> None:
    """Mark the outcomes that nothing beats in both speed and AP."""
    best = ABSENT
    for outcome in sorted(found, key=lambda each: (each.milliseconds, -each.tuned)):
        outcome.front = outcome.tuned > best
        best = max(best, outcome.tuned)


def winners(found: Sequence[Outcome], tolerance: float) -> dict[str, Outcome]:
    """best: the highest AP on the first half; fast: the fastest that loses at most `tolerance` to the trained one.

    Nothing where that half has no objects: the fastest would win with both.
    """
    trained = found[0]
    if trained.tuned == ABSENT:
        return {}
    good = [each for each in found if each.tuned >= trained.tuned - tolerance]
    return {
        "best": max(found, key=lambda each: (each.tuned, -each.milliseconds)),
        "fast": min(good, key=lambda each: (each.milliseconds, -each.tuned)),
    }
