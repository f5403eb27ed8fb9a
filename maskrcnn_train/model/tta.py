"""Test-time augmentation: detect on several versions of each image, and join the detections."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from maskrcnn_train.model.inputs import NetworkInput
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.outputs import DetectionRules
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.structures.batch import ImageBatch, ImageVersions
from maskrcnn_train.structures.detections import Detections, join_detections


@dataclass
class _View:
    """One version of a batch, mirrored or not, and the maps of its features."""

    inputs: NetworkInput
    maps: list[Tensor]
    mirrored: bool

    def features(self) -> Pyramid:
        """Made anew, for the rows that it keeps are as large as the maps: those of one view at a time are enough."""
        return Pyramid(self.maps)

    def to_original(self, found: Detections, image: int) -> Detections:
        """Detections of this view in image pixels."""
        found = replace(found, boxes=self._mirror(found.boxes, found.size[1]))
        return found.resized(self.inputs.original_sizes[image])

    def boxes_of(self, found: Detections, image: int) -> Tensor:
        """The boxes [N, 4] of detections in image pixels, in the pixels of this view."""
        moved = found.resized(self.inputs.sizes[image])
        return self._mirror(moved.boxes, moved.size[1])

    def _mirror(self, boxes: Tensor, width: int) -> Tensor:
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(1)
        return torch.stack((width - x2, y1, width - x1, y2), dim=1)


class TestTimeAugmentation(nn.Module):
    """A model that looks at each image several times.

    Boxes of all views go through one NMS per class, with the model's own threshold and limit. A mask is the mean of
    the masks that all views give for the joined box (as in Detectron2's GeneralizedRCNNWithTTA).
    """

    __test__ = False  # its name does not make it a test

    def __init__(self, model: MaskRCNN, *, flip: bool) -> None:
        super().__init__()
        self.model = model
        self.flip = flip

    @torch.no_grad()
    def detect(self, images: ImageVersions, *, rules: DetectionRules | None = None) -> list[Detections]:
        """Detections of each image, boxes in image pixels. rules: None for the model's own."""
        rules = rules or self.model.roi_heads.rules
        sides = (False, True) if self.flip else (False,)
        views = [self._view(batch, mirrored) for batch in images.versions for mirrored in sides]
        joined = []
        for parts in zip(*[self._boxes(view, rules) for view in views], strict=True):
            every = join_detections(parts)
            kept = batched_nms(every.boxes, every.scores, every.labels, rules.nms_threshold)
            joined.append(every[kept[: rules.count]])
        return self._add_masks(views, joined) if self.model.roi_heads.has_masks else joined

    def _view(self, batch: ImageBatch, mirrored: bool) -> _View:
        inputs = self.model.prepare(batch)
        if mirrored:
            for image, (_, width) in zip(inputs.pixels, inputs.sizes, strict=True):  # the padding stays on the right
                image[..., :width] = image[..., :width].flip(-1)
        return _View(inputs, self.model.features(inputs), mirrored)

    def _boxes(self, view: _View, rules: DetectionRules) -> list[Detections]:
        features = view.features()
        proposals = [each.boxes for each in self.model.proposals(features, view.inputs)]
        batch = self.model.roi_heads.detect_boxes(features, proposals, view.inputs.sizes, rules)
        return [view.to_original(each, image) for image, each in enumerate(batch)]

    def _add_masks(self, views: list[_View], joined: list[Detections]) -> list[Detections]:
        labels = [each.labels for each in joined]
        sums: list[Tensor] = []
        for view in views:
            boxes = [view.boxes_of(each, image) for image, each in enumerate(joined)]
            masks = self.model.roi_heads.mask_probabilities(view.features(), boxes, labels)
            masks = [each.flip(-1) for each in masks] if view.mirrored else masks
            sums = [total + each for total, each in zip(sums, masks, strict=True)] if sums else masks
        return [replace(each, probabilities=total / len(views)) for each, total in zip(joined, sums, strict=True)]
