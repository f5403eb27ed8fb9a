"""How doubtful each label is, and each detection without one: a kind, and a suspicion from 0 to 1.

A suspicion has two factors. The first is what the detections say, as a number from 0 to 1: how sure the model is of
something else than the label. The second is how few labels are as doubtful in this way, for a model that contradicts
many labels is itself wrong; it is 0.5 for the last of the share PRIOR of the labels. So all kinds fit into one list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskrcnn_train.evaluation.coco.ground_truth import Coco, complete_ground_truth
from maskrcnn_train.labelling.evidence import FEW, NEAR, ON, Evidence, gather_evidence
from maskrcnn_train.structures.arrays import Floats

KINDS = {
    "missing": "an object that the model finds, without a label",
    "spurious": "a label where the model finds nothing",
    "wrong class": "a label where the model finds another class",
    "loose box": "the right class, but the box fits worse than those of other labels",
    "poor mask": "the box fits, but the mask fits worse than those of other labels",
    "doubled": "a second label on one object",
}
PRIOR = 0.05  # share of the labels that may be wrong in one way before the model is to blame, ...
FEWEST = 5  # ... or so many labels
CONFUSED = 0.2  # share of the labels of a class that a model which takes it for another one calls by its name
FARTHEST = 2.0  # spreads below the usual overlap at which one is unusual
LEAST_SPREAD = 0.02
QUARTILE = 0.6745  # of a normal distribution, in standard deviations
LOST = 0.5  # share of the usual overlap that counts in full where it is missing
SURE = 0.5  # from which a detection is shown beside a doubled label
DOUBLED = (0.5, 0.9)  # IoU of two labels of one class: below it they are two objects, above it one


@dataclass
class Doubt:
    """One label, or one detection without a label.

    label, twin, found: rows of the ground truth's annotations and of the results, None where there is none; twin: the
    other label of a doubled one. proposed: the category id that the label should have, None where it should go.
    """

    kind: str
    suspicion: float
    image_id: int
    label: int | None
    found: int | None
    proposed: int | None
    twin: int | None = None


def find_doubts(
    ground_truth: Coco, results: Sequence[Coco], *, with_masks: bool, max_detections: int, least: float = 0.0
) -> list[Doubt]:
    """Every label that is no crowd region, with its most suspicious kind, and every detection without a label.

    The most suspicious first, down to `least`. ground_truth: COCO's; results: COCO's, of a model that has not seen
    these labels, checked. max_detections: per image and class.
    """
    truth = complete_ground_truth(ground_truth, ["bbox", "segm"] if with_masks else ["bbox"])
    evidence = gather_evidence(truth, results, with_masks=with_masks, max_detections=max_detections)
    doubts = _of_labels(truth, results, evidence)
    for row, suspicion in zip(evidence.unlabelled.tolist(), missing_suspicions(evidence).tolist(), strict=True):
        found = results[row]
        doubts.append(Doubt("missing", suspicion, found["image_id"], None, row, found["category_id"]))
    doubts = [each for each in doubts if each.suspicion >= least]
    return sorted(doubts, key=lambda each: -each.suspicion)


def _of_labels(truth: Coco, results: Sequence[Coco], evidence: Evidence) -> list[Doubt]:
    suspicions = label_suspicions(evidence)
    kinds = list(suspicions)
    table = np.array(list(suspicions.values()))
    doubts = []
    for number, row in enumerate(evidence.labels.tolist()):
        kind = kinds[int(table[:, number].argmax())]
        label = truth["annotations"][row]
        found = (evidence.other_found if kind == "wrong class" else evidence.own_found)[number]
        proposed = label["category_id"]
        if kind == "wrong class":
            proposed = results[found]["category_id"]
        elif kind in ("spurious", "doubled"):
            proposed = None
        twin = int(evidence.twins[number]) if kind == "doubled" else None
        is_seen = found >= 0 and kind != "spurious" and (kind != "doubled" or evidence.sure[number] >= SURE)
        suspicion = float(table[:, number].max())
        doubts.append(Doubt(kind, suspicion, label["image_id"], row, int(found) if is_seen else None, proposed, twin))
    return doubts


def label_suspicions(evidence: Evidence) -> dict[str, Floats]:
    """The suspicion of each kind for each label: [N] by kind, all kinds but `missing`."""
    own, other = evidence.own, evidence.other
    sure = np.maximum(evidence.sure, other)
    loose = _unusual(evidence.box_ious, evidence)
    poor = _unusual(evidence.mask_ious / np.maximum(evidence.box_ious, NEAR), evidence) * (1 - loose)
    doubled = _doubled(evidence)  # which leave the second label without a detection
    doubts = {
        "spurious": (1 - np.maximum(own, other)) * (1 - doubled),
        "wrong class": other * (1 - own) * _not_confused(evidence),
        "loose box": sure * loose,
        "poor mask": sure * poor,
    }
    rare = {kind: doubt * _rarity(doubt, len(own)) for kind, doubt in doubts.items()}
    return rare | {"doubled": doubled}


def missing_suspicions(evidence: Evidence) -> Floats:
    """The suspicion of each detection without a label: [U]."""
    return evidence.chances * _rarity(evidence.chances, len(evidence.own))


def _not_confused(evidence: Evidence) -> Floats:
    """Less than 1 where the model calls many other labels of the class by the same other name: [N].

    It is 0.5 where it does so with the share CONFUSED of them.
    """
    found = np.ones(len(evidence.classes))
    for number in np.unique(evidence.classes):
        mine = np.flatnonzero(evidence.classes == number)
        called = np.where(evidence.other > evidence.own, evidence.other_classes, -1)[mine]
        others = np.bincount(called + 1)[called + 1] - 1
        found[mine] = np.where(called >= 0, 1 / (1 + others / len(mine) / CONFUSED), 1.0)
    return found


def _rarity(doubts: Floats, num_labels: int) -> Floats:
    """How few are as doubtful: 1 for the most doubtful one, 0.5 where that many are the share PRIOR of the labels.

    Equals share the mean of their places.
    """
    ordered = np.sort(doubts)
    below, upto = (np.searchsorted(ordered, doubts, side=side) for side in ("left", "right"))
    above = len(doubts) - (below + upto + 1) / 2
    return np.asarray(1 / (1 + above / max(PRIOR * num_labels, FEWEST)))


def _unusual(ious: Floats, evidence: Evidence) -> Floats:
    """How much less than usual labels overlap the detection of their class: [N], 0 to 1.

    Usual are the median and the lower spread (from the quartile, as of a normal distribution) of the labels of the
    class that detections agree with.
    """
    agreed = evidence.box_ious >= ON
    found = np.zeros(len(ious))
    for number in np.unique(evidence.classes):
        mine = evidence.classes == number
        usual = ious[agreed & mine] if (agreed & mine).sum() >= FEW else ious[agreed]
        if len(usual):
            low, middle = np.quantile(usual, [0.25, 0.5])
            below = middle - ious[mine]
            spreads = below / max((middle - low) / QUARTILE, LEAST_SPREAD)
            found[mine] = np.clip(below / max(LOST * middle, LEAST_SPREAD), 0, 1) / (1 + np.exp(FARTHEST - spreads))
    return np.nan_to_num(found)


def _doubled(evidence: Evidence) -> Floats:
    """Of two labels on one object the one that fits the detection worse; where both fit alike, the later one."""
    strength = np.clip((evidence.twin_ious - DOUBLED[0]) / (DOUBLED[1] - DOUBLED[0]), 0, 1)
    position = {row: number for number, row in enumerate(evidence.labels.tolist())}
    fit = np.nan_to_num(evidence.own * evidence.box_ious)
    for number, twin in enumerate(evidence.twins.tolist()):
        partner = position.get(twin)
        if partner is not None and (fit[number], -number) > (fit[partner], -partner):
            strength[number] = 0
    return strength
