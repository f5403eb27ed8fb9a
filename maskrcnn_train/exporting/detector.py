"""The model as one graph from an image of any size to its detections, for tracing.

The stages are those of `model/`, with one image, no budgets shared in a batch, and without Python numbers that depend
on the image: a trace would keep the example's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.operators import shape_as_tensor
from torchvision.ops import nms

from maskrcnn_train.exporting.pasting import MaskPaster
from maskrcnn_train.exporting.resizing import F64, PillowResize, resized_size
from maskrcnn_train.model.boxes import not_small
from maskrcnn_train.model.inputs import DIVISOR
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.outputs import PROPOSAL_CODER
from maskrcnn_train.model.proposals import ANCHOR_CODER


class TraceableDetector(nn.Module):
    """image uint8 [H, W, 3], R G B, upright -> boxes [N, 4], labels [N], scores [N] and, with a mask head, masks.

    boxes: float32, x1 y1 x2 y2, image pixels; labels: int64, 1..K; scores: float32, highest first; masks: float32
    [N, 1, M, M], probabilities inside each box, or with a `paster` uint8 [N, H, W].
    """

    def __init__(self, model: MaskRCNN, *, min_size: int, max_size: int, paster: MaskPaster | None = None) -> None:
        super().__init__()
        self.model = model
        self.resize = PillowResize()
        self.min_size, self.max_size = min_size, max_size
        self.paster = paster

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        size = shape_as_tensor(image)[:2]
        network_size = resized_size(size, self.min_size, self.max_size)
        features = self.model.backbone(self.prepare(image, network_size))
        height_width = network_size.to(torch.float32)
        limits = torch.cat((height_width.flip(0), height_width.flip(0)))
        proposals = self.propose(features, limits)
        boxes, labels, scores = self.detect(features, proposals, limits)
        ratios = (size.to(F64) / network_size.to(F64)).to(torch.float32)
        image_boxes = boxes * torch.cat((ratios.flip(0), ratios.flip(0)))
        if not self.model.roi_heads.has_masks:
            return image_boxes, labels, scores
        masks = self.model.roi_heads.predict_masks(features, [boxes], labels).sigmoid()
        if self.paster is not None:
            return image_boxes, labels, scores, self.paster(masks, image_boxes, size)
        return image_boxes, labels, scores, masks[:, None]

    def prepare(self, image: Tensor, size: Tensor) -> Tensor:
        """Resized, normalised and padded: float32 [1, 3, H, W]."""
        pixels = self.resize(image, size).permute(2, 0, 1)[None].to(torch.float32)
        mean, std = self.model.pixel_mean, self.model.pixel_std
        padding = -size % DIVISOR
        return F.pad(pixels * (1 / (255 * std)) - mean / std, [0, padding[1], 0, padding[0]])  # type: ignore[list-item]

    def propose(self, features: list[Tensor], limits: Tensor) -> Tensor:
        """Proposals [P, 4] in network pixels; limits: [4], width height width height."""
        head, budget = self.model.rpn.head, self.model.rpn.test_budget
        padded_size = features[0].shape[2] * 4, features[0].shape[3] * 4
        all_boxes, all_scores = [], []
        for level, hidden in enumerate(head.hidden(features)):
            logits, deltas = head(hidden)
            anchors = self.model.rpn.anchors.of_level(level, padded_size, logits.shape[2:], logits.device)
            logits = logits.permute(0, 2, 3, 1).reshape(-1)
            deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)
            top = logits.sort(descending=True).indices[: budget.pre_nms]
            boxes = _clip(ANCHOR_CODER.decode(deltas[top], anchors[top]), limits)
            scores = logits[top].sigmoid()
            large = torch.where(not_small(boxes, budget.min_size))[0]
            boxes, scores = boxes[large], scores[large]
            keep = nms(boxes, scores, budget.nms_threshold)
            all_boxes.append(boxes[keep])
            all_scores.append(scores[keep])
        best = torch.cat(all_scores).sort(descending=True).indices[: budget.post_nms]
        return torch.cat(all_boxes)[best]

    def detect(self, features: list[Tensor], proposals: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [N, 4] in network pixels, labels [N], scores [N]."""
        rules = self.model.roi_heads.rules
        logits, deltas = self.model.roi_heads.predict_boxes(features, [proposals])
        probabilities = logits.softmax(-1)
        rows, labels = torch.where(probabilities[:, 1:] > rules.score_threshold)
        labels = labels + 1
        scores = probabilities[rows, labels]
        boxes = _clip(PROPOSAL_CODER.decode(deltas[rows, labels], proposals[rows]), limits)
        if rules.min_size > 0:
            large = torch.where(not_small(boxes, rules.min_size))[0]
            boxes, labels, scores = boxes[large], labels[large], scores[large]
        keep = _class_wise_nms(boxes, scores, labels, rules.nms_threshold)[: rules.count]
        boxes, labels, scores = boxes[keep], labels[keep], scores[keep]
        large = torch.where(not_small(boxes, rules.min_size))[0]
        return boxes[large], labels[large], scores[large]


def _clip(boxes: Tensor, limits: Tensor) -> Tensor:
    return torch.minimum(boxes.clamp(min=0), limits)


def _class_wise_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Boxes of different classes are moved apart, so that one NMS serves all; torchvision does so for few boxes."""
    farthest = torch.cat((boxes.reshape(-1), boxes.new_zeros(1))).max()
    keep: Tensor = nms(boxes + (labels.to(boxes.dtype) * (farthest + 1))[:, None], scores, threshold)
    return keep
