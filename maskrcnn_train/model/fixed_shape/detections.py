"""Detections of all images from scores and deltas. Waits for the number of candidates, and for each image's NMS."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from maskrcnn_train.model.boxes import not_small
from maskrcnn_train.model.outputs import PROPOSAL_CODER, Candidates, DetectionRules, keep_best
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.waits import read, send


@torch.no_grad()
def select_detections_of_batch(
    scores: Tensor, deltas: Tensor, proposals: list[Tensor], sizes: list[tuple[int, int]], rules: DetectionRules
) -> list[Detections]:
    """Detections of each image: scores [K, classes], deltas [K, classes, 4] of the proposals [k_i, 4] of each."""
    device, count = scores.device, len(scores)
    images = torch.arange(len(sizes), device=device).repeat_interleave(
        send([len(boxes) for boxes in proposals], device), output_size=count
    )
    limits = send([(width, height, width, height) for height, width in sizes], device)[images]
    boxes = PROPOSAL_CODER.decode(deltas[:, 1:], torch.cat(proposals)[:, None])
    boxes = torch.minimum(boxes.clamp(min=0), limits[:, None])
    large = not_small(boxes, rules.min_size)
    flags = scores[:, 1:] > rules.score_threshold
    if rules.min_size > 0:
        flags = flags & large
    numbers = read(torch.zeros(len(sizes), dtype=torch.int64, device=device).index_add(0, images, flags.sum(dim=1)))
    rows, classes = torch.nonzero_static(flags, size=sum(numbers)).unbind(1)
    columns = (boxes[rows, classes], classes + 1, scores[rows, classes + 1], rows, large[rows, classes])
    images_found = zip(*(column.split(numbers) for column in columns), sizes, strict=True)
    return [_best(Candidates(*found), rules) for found in images_found]


def _best(candidates: Candidates, rules: DetectionRules) -> Detections:
    """NMS within each class, then the highest of all."""
    boxes, labels = candidates.boxes, candidates.labels
    if len(labels) == 0:
        return candidates.to_detections()
    # classes moved apart as in torchvision's `batched_nms`, which would wait for each class where boxes are many
    apart = boxes + (labels * (boxes.max() + 1))[:, None]
    kept = candidates[nms(apart, candidates.scores, rules.nms_threshold)]
    return keep_best(kept, rules.count).to_detections() if rules.min_size == 0 else kept[: rules.count].to_detections()
