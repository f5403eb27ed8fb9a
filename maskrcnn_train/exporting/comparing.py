"""How far the detections of an exported file are from those of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskrcnn_train.evaluation.detect import to_results
from maskrcnn_train.exporting.runtimes import Output
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.pasting import paste_full
from maskrcnn_train.structures.rle import encode_crop

SAME_PLACE = 0.1  # of an object's longer side: farther apart, two boxes are two objects


@dataclass
class Differences:
    """The largest over all images. pixels: of a box's corner; boxes: the same, relative to the box's longer side;
    scores: absolute; mask_iou: lowest of an image, its masks taken together, None without masks; missing: detections
    that only one side has, apart from those at the score threshold or at the end of a full budget."""

    images: int = 0
    detections: int = 0
    pixels: float = 0.0
    boxes: float = 0.0
    scores: float = 0.0
    mask_iou: float | None = None
    missing: int = 0

    def merge(self, other: Differences) -> None:
        """Take in those of another image."""
        self.images += other.images
        self.detections += other.detections
        self.missing += other.missing
        self.pixels, self.boxes = max(self.pixels, other.pixels), max(self.boxes, other.boxes)
        self.scores = max(self.scores, other.scores)
        if other.mask_iou is not None:
            self.mask_iou = other.mask_iou if self.mask_iou is None else min(self.mask_iou, other.mask_iou)


def compare(
    ours: Output, theirs: Output, size: tuple[int, int], config: TrainConfig, *, score_tolerance: float
) -> Differences:
    """Differences on one image of `size` (height, width). Masks: [N, 1, M, M] inside boxes, or pasted [N, H, W]."""
    pairs = _pair(ours, theirs)
    mine, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    shifts = (ours["boxes"][mine] - theirs["boxes"][other]).abs()
    sides = (ours["boxes"][mine, 2:] - ours["boxes"][mine, :2]).amax(dim=1, keepdim=True)
    gaps = (ours["scores"][mine] - theirs["scores"][other]).abs()
    return Differences(
        images=1,
        detections=len(ours["scores"]),
        pixels=float(shifts.max()) if pairs else 0.0,
        boxes=float((shifts / sides).max()) if pairs else 0.0,
        scores=float(gaps.max()) if pairs else 0.0,
        mask_iou=_mask_iou(ours, theirs, mine, other, size, config) if "masks" in ours else None,
        missing=_missing(ours["scores"], mine, config, score_tolerance)
        + _missing(theirs["scores"], other, config, score_tolerance),
    )


def _pair(ours: Output, theirs: Output) -> list[tuple[int, int]]:
    """Each of our detections with the nearest of the same label that is left, best score first."""
    pairs: list[tuple[int, int]] = []
    free = torch.ones(len(theirs["scores"]), dtype=torch.bool)
    for index, (box, label) in enumerate(zip(ours["boxes"], ours["labels"], strict=True)):
        candidates = torch.where(free & (theirs["labels"] == label))[0]
        if not len(candidates):
            continue
        distances = (theirs["boxes"][candidates] - box).abs().amax(dim=1)
        best = int(distances.argmin())
        if float(distances[best]) <= SAME_PLACE * float((box[2:] - box[:2]).max()):
            pairs.append((index, int(candidates[best])))
            free[candidates[best]] = False
    return pairs


def _missing(scores: Tensor, paired: list[int], config: TrainConfig, tolerance: float) -> int:
    edge = config.roi_head.score_threshold
    if len(scores) >= config.roi_head.detections_per_image:
        edge = max(edge, float(scores.min()))
    alone = torch.ones(len(scores), dtype=torch.bool)
    alone[paired] = False
    return int((alone & (scores > edge + tolerance)).sum())


def _mask_iou(
    ours: Output, theirs: Output, mine: list[int], other: list[int], size: tuple[int, int], config: TrainConfig
) -> float:
    intersection = union = 0
    for first, second in zip(mine, other, strict=True):  # one at a time: full-size masks are large
        a, b = bitmap(ours, first, size, config), bitmap(theirs, second, size, config)
        intersection += int((a & b).sum())
        union += int((a | b).sum())
    return intersection / union if union else 1.0


def bitmap(output: Output, index: int, size: tuple[int, int], config: TrainConfig) -> Tensor:
    """One mask in the image: bool [H, W]."""
    masks = output["masks"][index : index + 1]
    if masks.dim() == 4:
        boxes = output["boxes"][index : index + 1]
        threshold, rule = config.mask_head.threshold, config.numerics.mask_paste
        masks = paste_full(masks, boxes, size, threshold=threshold, rule=rule)
    return masks[0].bool()


def coco_results(
    output: Output, size: tuple[int, int], config: TrainConfig, category_ids: list[int]
) -> list[dict[str, Any]]:
    """COCO results of one image, without its id; category_ids of labels 1..K."""
    pasted = "masks" in output and output["masks"].dim() == 3
    boxes_only = {name: value for name, value in output.items() if name != "masks" or not pasted}
    threshold, rule = config.mask_head.threshold, config.numerics.mask_paste
    results = to_results(boxes_only, 0, size, threshold=threshold, rule=rule, class_ids=[-1, *category_ids])
    if pasted:
        for result, mask in zip(results, output["masks"], strict=True):
            result["segmentation"] = encode_crop(mask.numpy(), 0, 0, size)
    return results
