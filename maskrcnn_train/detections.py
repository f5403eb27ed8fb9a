"""What a model found on one image, and the forms that other programs want it in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_train.evaluation.rle import masks_to_rle
from maskrcnn_train.model.outputs import paste_full, paste_masks


@dataclass
class Detections:
    """Objects of one image, highest score first.

    boxes: float32 [N, 4], x1 y1 x2 y2, pixels of the image of `size` (height, width). scores: float32 [N].
    labels: int64 [N], 1..K. class_names: [N]. category_ids: [N], of the training data. probabilities: float32
    [N, 1, M, M] inside each box, None from a model without masks. source: the file, None for pixels in memory.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: list[str]
    category_ids: list[int]
    size: tuple[int, int]
    probabilities: Tensor | None
    mask_threshold: float
    mask_rule: str
    source: str | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def keep(self, wanted: Tensor) -> Detections:
        """Those where `wanted`, bool [N], holds."""
        index = torch.where(wanted)[0]
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            class_names=[self.class_names[i] for i in index.tolist()],
            category_ids=[self.category_ids[i] for i in index.tolist()],
            probabilities=None if self.probabilities is None else self.probabilities[index],
        )

    def rle(self) -> list[dict[str, Any]]:
        """Masks as COCO run-length codes. Raises ValueError from a model without masks."""
        return masks_to_rle(self._masks(), self.boxes, self.size, threshold=self.mask_threshold, rule=self.mask_rule)

    def crops(self) -> list[tuple[int, int, NDArray[np.uint8]]]:
        """Each mask inside its box only: x0, y0 and a bitmap uint8 [h, w]."""
        pasted = paste_masks(self._masks(), self.boxes, self.size, threshold=self.mask_threshold, rule=self.mask_rule)
        return [(each.x0, each.y0, each.bitmap.numpy()) for each in pasted]

    def bitmaps(self) -> NDArray[np.bool_]:
        """Full-size masks: bool [N, height, width]; costs N times the image."""
        full = paste_full(self._masks(), self.boxes, self.size, threshold=self.mask_threshold, rule=self.mask_rule)
        return full.numpy().astype(bool)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox x y width height, score and, with masks, segmentation."""
        corners = torch.cat([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], dim=1).tolist()
        results: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in zip(self.category_ids, corners, self.scores.tolist(), strict=True)
        ]
        if self.probabilities is not None:
            for result, code in zip(results, self.rle(), strict=True):
                result["segmentation"] = code
        return results

    def to_supervision(self) -> Any:
        """A `supervision.Detections` (extra `supervision`), class ids being labels - 1."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            mask=None if self.probabilities is None else self.bitmaps(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy() - 1,
            data={"class_name": np.array(self.class_names)},
        )

    def _masks(self) -> Tensor:
        if self.probabilities is None:
            raise ValueError("this model gives boxes only; train with mask_head=conv4 for masks")
        return self.probabilities
