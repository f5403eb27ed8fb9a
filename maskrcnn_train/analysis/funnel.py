"""The recall funnel: for each object that is not found, the stage of the model at which it was lost.

At every stage some candidates still cover an object: they overlap it by at least the IoU in question, and from the box
head on they are of its class. An object that is not found was lost at the stage after the last one with such a
candidate. Objects = found + lost by stage, exactly.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from maskrcnn_train.analysis.trace import Objects, ObjectsOfImages, Trace
from maskrcnn_train.evaluation.diagnostics.matches import match_detections
from maskrcnn_train.evaluation.diagnostics.overlaps import image_overlaps
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.matching import nearest_objects
from maskrcnn_train.model.outputs import Candidates, candidates_above, keep_best, suppress_in_classes
from maskrcnn_train.model.proposals import clip_and_filter, suppress_overlaps, top_candidates
from maskrcnn_train.structures.detections import Detections

FOUND = "found"
STAGES = {
    "anchor": ("no anchor has an IoU of rpn.iou.upper with it, the RPN regresses none onto it", "rpn.anchors.sizes"),
    "rpn_box": ("the RPN regresses no anchor onto it, though some fit", "trainer.epochs"),
    "pre_nms": ("its candidates score too low for the top-k of their level", "rpn.nms.pre_test"),
    "rpn_nms": ("the RPN's NMS removed its candidates in favour of better ones", "rpn.nms.threshold"),
    "post_nms": ("its proposals rank below the number that is kept", "rpn.nms.post_test"),
    "box": ("the box head regresses no proposal onto it with its class", "trainer.epochs"),
    "wrong_class": ("its own class scores below the threshold, and another class above", "trainer.epochs"),
    "score": ("every class scores below the threshold", "roi_head.score_threshold"),
    "class_nms": ("NMS removed its detection in favour of a better one", "roi_head.nms_threshold"),
    "detections": ("too many detections score higher", "roi_head.detections_per_image"),
    "mask": ("the box is right, the mask overlaps too little", "mask_head.threshold"),
    "neighbour": ("its only detection belongs to an object beside it", "roi_head.nms_threshold"),
}


@dataclass
class LostObject:
    """An object and where it went. row: of the ground truth's annotations; stage: FOUND or one of STAGES."""

    row: int
    annotation_id: int
    image_id: int
    class_name: str
    size: str
    stage: str


@dataclass
class Funnel:
    """Every object with its stage, for one kind (bbox, segm) and IoU."""

    kind: str
    iou: float
    objects: list[LostObject]

    def counts(self, **only: str) -> Counter[str]:
        """Objects by stage. only: a class_name or size to count."""
        chosen = [each for each in self.objects if all(getattr(each, key) == value for key, value in only.items())]
        return Counter(each.stage for each in chosen)


@dataclass
class FunnelTracer:
    """Follows the objects of each batch through the model; `finish` adds what the detections show."""

    model: MaskRCNN
    objects: ObjectsOfImages
    iou: float
    last_stage: dict[int, str] = field(default_factory=dict)  # by row of the ground truth: where it is lost, if it is

    def add(self, trace: Trace) -> list[Detections]:
        """Follow one batch; returns its detections without masks, network pixels."""
        proposals = self.model.rpn.propose(trace.predictions, trace.inputs.sizes)
        logits, deltas = self.model.roi_heads.predict_boxes(trace.features, [each.boxes for each in proposals])
        counts, rules = [len(each) for each in proposals], self.model.roi_heads.rules
        parts = zip(logits.softmax(-1).split(counts), deltas.split(counts), strict=True)
        found = []
        for image, (scores, moves) in enumerate(parts):
            size, boxes = trace.inputs.sizes[image], proposals[image].boxes
            every = candidates_above(scores, moves, boxes, size, replace(rules, score_threshold=-1.0))
            above = every[torch.where(every.scores > rules.score_threshold)[0]]
            kept = suppress_in_classes(above, rules.nms_threshold)
            final = keep_best(kept, rules.count)
            found.append(final.to_detections())
            own = self.objects.of(trace, image)
            if own.rows:
                stages = self._stages(trace, image, own, boxes, [every, above, kept, final])
                self.last_stage |= dict(zip(own.rows, stages, strict=True))
        return found

    def _stages(
        self, trace: Trace, image: int, own: Objects, proposals: Tensor, heads: Sequence[Candidates]
    ) -> list[str]:
        """Where each object is lost if it is not found, the detections being the last stage."""
        predictions, budget = trace.of_image(image), self.model.rpn.test_budget
        every, before = (
            clip_and_filter(top_candidates(predictions, count)[0], trace.inputs.sizes[image], budget.min_size)
            for count in (len(predictions.anchors), budget.pre_nms)
        )
        after = suppress_overlaps(before, budget.nms_threshold)
        covered = [self._covered(own, boxes) for boxes in (every.boxes, before.boxes, after.boxes, proposals)]
        covered += [self._covered(own, each.boxes, each.labels) for each in heads]
        names = ("rpn_box", "pre_nms", "rpn_nms", "post_nms", "box", "score", "class_nms", "detections", FOUND)
        numbers = torch.arange(1, len(covered) + 1, device=own.boxes.device)
        survived = (torch.stack(covered, dim=1) * numbers).amax(dim=1)  # the last stage with a candidate, from 1
        stages = [names[number] for number in survived.tolist()]
        fits = nearest_objects(own.boxes, predictions.anchors).object_ious >= self.model.rpn.sampling.upper
        taken = self._covered(own, heads[1].boxes)  # by a candidate of any class above the score
        for number, stage in enumerate(stages):
            if stage == "rpn_box" and not fits[number]:
                stages[number] = "anchor"
            elif stage == "score" and taken[number]:
                stages[number] = "wrong_class"
        return stages

    def _covered(self, own: Objects, boxes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Whether some box (of the object's class) overlaps each object enough: bool [G]."""
        covered = torch.zeros(len(own.rows), dtype=torch.bool, device=own.boxes.device)
        groups = [(own.labels > 0, boxes)]
        if labels is not None:
            groups = [(own.labels == label, boxes[labels == label]) for label in own.labels.unique()]
        for same, others in groups:
            if len(others):  # nearest in pieces: all anchors may be among the boxes
                covered[same] = nearest_objects(own.boxes[same], others).object_ious >= self.iou
        return covered

    def finish(self, ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], *, kind: str) -> Funnel:
        """Found is what COCO's matching finds at this IoU; results: the model's detections, as COCO has them."""
        names = {category["id"]: category["name"] for category in ground_truth["categories"]}
        found, covered = _found_objects(ground_truth, results, kind, self.iou)
        objects = []
        for row, stage in sorted(self.last_stage.items()):
            annotation = ground_truth["annotations"][row]
            if row in found:
                stage = FOUND
            elif stage == FOUND:  # a detection of its class covers it, and still it is not found
                stage = "neighbour" if row in covered else "mask"
            name, size = names[annotation["category_id"]], self.objects.sizes[row]
            objects.append(LostObject(row, annotation["id"], annotation["image_id"], name, size, stage))
        return Funnel(kind, self.iou, objects)


def _found_objects(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: str, iou: float
) -> tuple[set[int], set[int]]:
    """Rows of the objects that are matched, and of those that some detection of their class overlaps enough."""
    overlaps = image_overlaps(ground_truth, results, kind=kind, max_detections=len(results))
    matches = match_detections(overlaps, iou_thresholds=[iou])
    pairs = zip(matches.object_images[matches.found[0]], matches.object_rows[matches.found[0]], strict=True)
    found, covered = {int(overlaps[image].objects[row]) for image, row in pairs}, set()
    for image in overlaps:
        same = image.found_classes[:, None] == image.object_classes
        covered |= set(image.objects[((image.ious >= iou) & same).any(axis=0)].tolist())
    return found, covered
