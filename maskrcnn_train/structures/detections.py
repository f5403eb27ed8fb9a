"""What a model found on one image: from the ROI heads to pictures, COCO results and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.boxes import resize_boxes, xyxy_to_xywh
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.pasting import Crop, MaskPasting, paste_masks
from maskrcnn_train.structures.rle import compress_runs, crop_runs
from maskrcnn_train.structures.waits import fetch


@dataclass
class Detections:
    """Objects of one image, highest score first.

    boxes: float32 [N, 4], x1 y1 x2 y2, pixels of an image of `size` (height, width): the network's pixels inside the
    model, those of the original image outside. labels: int64 [N], 1..K. scores: float32 [N]. probabilities: float32
    [N, 1, M, M], the masks inside their boxes; None without a mask head.
    A `Predictor` adds `classes` and `pasting`, which names, ids and masks in the image need. source: the image's file.
    pasted: the masks in the image, made from `probabilities` on first use.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    size: tuple[int, int]
    probabilities: Tensor | None = None
    classes: ClassMap | None = None
    pasting: MaskPasting | None = None
    source: str | None = None
    pasted: list[Crop] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Tensor) -> Detections:
        """Those of the rows int64 [R], in their order, or where a bool [N] holds."""
        kept: dict[str, Any] = {name: value[rows] for name, value in self.tensors().items()}
        if self.pasted is not None:
            kept["pasted"] = [self.pasted[row] for row in torch.arange(len(self))[rows].tolist()]
        return replace(self, **kept)

    @property
    def has_masks(self) -> bool:
        return self.pasted is not None or self.probabilities is not None

    @property
    def class_names(self) -> list[str]:
        """The name of each detection's class."""
        assert self.classes is not None
        return [self.classes.name_of(label) for label in self.labels.tolist()]

    @property
    def category_ids(self) -> list[int]:
        """The category id of each detection, as in the training data."""
        assert self.classes is not None
        return [self.classes.id_of(label) for label in self.labels.tolist()]

    def keep_classes(self, names: list[str]) -> Detections:
        """Those of the named classes."""
        return self[torch.tensor([name in names for name in self.class_names], dtype=torch.bool)]

    def resized(self, size: tuple[int, int]) -> Detections:
        """The same objects in the pixels of the image at another `size` (height, width)."""
        return replace(self, boxes=resize_boxes(self.boxes, self.size, size), size=size)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def cpu(self) -> Detections:
        (moved,) = to_host([self])
        return moved

    def crops(self) -> list[Crop]:
        """Each mask inside its box only: x0, y0 and a bitmap uint8 [h, w]. Raises UserError without masks."""
        if self.pasted is None:
            if self.probabilities is None:
                raise UserError("this model gives boxes only; train with mask_head=conv4 for masks")
            assert self.pasting is not None
            self.pasted = paste_masks(self.probabilities, self.boxes, self.size, self.pasting)
        return self.pasted

    def rle(self) -> list[dict[str, Any]]:
        """Masks as COCO run-length codes. Raises UserError without masks."""
        return compress_runs([crop_runs(bitmap, x0, y0, self.size) for x0, y0, bitmap in self.crops()], self.size)

    def bitmaps(self) -> NDArray[np.bool_]:
        """Full-size masks: bool [N, height, width]; costs N times the image."""
        full = np.zeros((len(self), *self.size), np.bool_)
        for image, (x0, y0, bitmap) in zip(full, self.crops(), strict=True):
            image[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]] = bitmap
        return full

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox x y width height, score and, with masks, segmentation."""
        boxes, scores = xyxy_to_xywh(self.boxes).tolist(), self.scores.tolist()
        results: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in zip(self.category_ids, boxes, scores, strict=True)
        ]
        if self.has_masks:
            for result, code in zip(results, self.rle(), strict=True):
                result["segmentation"] = code
        return results

    def to_torchvision(self) -> dict[str, Tensor]:
        """boxes, labels, scores and masks [N, 1, M, M]: what torchvision's detection models return.

        Without masks where the model has none, or where tiles were joined, whose masks are pasted already.
        """
        output = {"boxes": self.boxes, "labels": self.labels, "scores": self.scores}
        return output if self.probabilities is None else {**output, "masks": self.probabilities}

    def to_supervision(self) -> Any:
        """A `supervision.Detections` (extra `supervision`), class ids being labels - 1."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            mask=self.bitmaps() if self.has_masks else None,
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy() - 1,
            data={"class_name": np.array(self.class_names)},
        )


def to_host(batch: Sequence[Detections]) -> list[Detections]:
    """Detections of a batch on the CPU; a GPU is waited for once."""
    columns = [each.tensors() for each in batch]
    fetched = iter(fetch([tensor for own in columns for tensor in own.values()]))
    moved: list[dict[str, Any]] = [{name: next(fetched) for name in own} for own in columns]
    return [replace(each, **own) for each, own in zip(batch, moved, strict=True)]


def join_detections(parts: Sequence[Detections]) -> Detections:
    """All detections of several parts of one image in one object, part after part; `parts` isn't empty."""
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0].tensors()}
    if parts[0].pasted is not None:
        joined["pasted"] = [crop for part in parts for crop in part.crops()]
    return replace(parts[0], **joined)
