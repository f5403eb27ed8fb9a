"""Test-time augmentation: detect on several versions of each image, and join what they give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from maskrcnn_train.model.boxes import resize_boxes
from maskrcnn_train.model.inputs import NetworkInput
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.structures.batch import ImageBatch, ImageVersions


@dataclass
class _View:
    """One version of a batch, mirrored or not, and what the backbone made of it."""

    inputs: NetworkInput
    features: list[Tensor]
    mirrored: bool

    def to_original(self, boxes: Tensor, image: int) -> Tensor:
        """Boxes [N, 4] of this view in image pixels."""
        size = self.inputs.sizes[image]
        return resize_boxes(self._turned(boxes, size[1]), size, self.inputs.original_sizes[image])

    def from_original(self, boxes: Tensor, image: int) -> Tensor:
        """Boxes [N, 4] in image pixels in those of this view."""
        size = self.inputs.sizes[image]
        return self._turned(resize_boxes(boxes, self.inputs.original_sizes[image], size), size[1])

    def _turned(self, boxes: Tensor, width: int) -> Tensor:
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(1)
        return torch.stack((width - x2, y1, width - x1, y2), dim=1)


class AugmentedDetector(nn.Module):
    """A model that looks at each image several times; called as the model is in evaluation.

    Boxes of all views go through one NMS per class, with the model's own threshold and limit; a mask is the mean of
    the masks that every view gives for the joined box (as in Detectron2's GeneralizedRCNNWithTTA).
    """

    def __init__(self, model: MaskRCNN, *, flip: bool) -> None:
        super().__init__()
        self.model = model
        self.flip = flip

    def forward(self, images: ImageVersions) -> list[dict[str, Tensor]]:
        """Boxes [N, 4] in image pixels, labels [N], scores [N] and masks [N, 1, M, M] of each image."""
        sides = (False, True) if self.flip else (False,)
        views = [self._view(batch, mirrored) for batch in images.versions for mirrored in sides]
        found = [self._detect(view) for view in views]
        joined = [self._join(each) for each in zip(*found, strict=True)]
        if self.model.roi_heads.has_masks:
            self._add_masks(views, joined)
        return joined

    def _view(self, batch: ImageBatch, mirrored: bool) -> _View:
        inputs = self.model.prepare(batch)
        if mirrored:
            for image, (_, width) in zip(inputs.pixels, inputs.sizes, strict=True):  # the padding stays on the right
                image[..., :width] = image[..., :width].flip(-1)
        return _View(inputs, self.model.features(inputs), mirrored)

    def _detect(self, view: _View) -> list[dict[str, Tensor]]:
        proposals = [each.boxes for each in self.model.proposals(view.features, view.inputs)]
        found = self.model.roi_heads.detect_boxes(view.features, proposals, view.inputs.sizes)
        return [
            {"boxes": view.to_original(each.boxes, image), "labels": each.labels, "scores": each.scores}
            for image, each in enumerate(found)
        ]

    def _join(self, found: tuple[dict[str, Tensor], ...]) -> dict[str, Tensor]:
        rules = self.model.roi_heads.rules
        joined = {key: torch.cat([each[key] for each in found]) for key in found[0]}
        keep = batched_nms(joined["boxes"], joined["scores"], joined["labels"], rules.nms_threshold)[: rules.count]
        return {key: value[keep] for key, value in joined.items()}

    def _add_masks(self, views: list[_View], joined: list[dict[str, Tensor]]) -> None:
        labels = [each["labels"] for each in joined]
        sums: list[Tensor] = []
        for view in views:
            boxes = [view.from_original(each["boxes"], image) for image, each in enumerate(joined)]
            masks = self.model.roi_heads.mask_probabilities(view.features, boxes, labels)
            masks = [each.flip(-1) for each in masks] if view.mirrored else masks
            sums = [total + each for total, each in zip(sums, masks, strict=True)] if sums else masks
        for each, total in zip(joined, sums, strict=True):
            each["masks"] = total / len(views)
