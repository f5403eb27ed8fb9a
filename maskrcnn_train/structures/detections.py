"""What a model found on one image, and the forms that other programs want it in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.pasting import paste_masks
from maskrcnn_train.structures.rle import compress_runs, crop_runs

Crop = tuple[int, int, NDArray[np.uint8]]  # x0, y0, bitmap [h, w], inside the image


@dataclass
class Detections:
    """Objects of one image, highest score first.

    boxes: float32 [N, 4], x1 y1 x2 y2, pixels of the image of `size` (height, width). scores: float32 [N].
    labels: int64 [N], 1..K. class_names: [N]. category_ids: [N], of the training data. probabilities: float32
    [N, 1, M, M] inside each box. pasted: the masks in the image, from `probabilities` on first use; both None from a
    model without masks. source: the file, None for pixels in memory.
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
    pasted: list[Crop] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def has_masks(self) -> bool:
        return self.pasted is not None or self.probabilities is not None

    def keep(self, wanted: Tensor) -> Detections:
        """Those where `wanted`, bool [N], holds."""
        return self.keep_rows(torch.where(wanted)[0].tolist())

    def keep_rows(self, rows: list[int]) -> Detections:
        """Those of the rows, in their order."""
        index = torch.tensor(rows, dtype=torch.int64)
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            class_names=[self.class_names[row] for row in rows],
            category_ids=[self.category_ids[row] for row in rows],
            probabilities=None if self.probabilities is None else self.probabilities[index],
            pasted=None if self.pasted is None else [self.pasted[row] for row in rows],
        )

    def keep_classes(self, names: list[str]) -> Detections:
        """Those of the named classes."""
        return self.keep_rows([row for row, name in enumerate(self.class_names) if name in names])

    def rle(self) -> list[dict[str, Any]]:
        """Masks as COCO run-length codes. Raises UserError from a model without masks."""
        return compress_runs([crop_runs(bitmap, x0, y0, self.size) for x0, y0, bitmap in self.crops()], self.size)

    def crops(self) -> list[Crop]:
        """Each mask inside its box only: x0, y0 and a bitmap uint8 [h, w]. Raises UserError as `rle`."""
        if self.pasted is None:
            if self.probabilities is None:
                raise UserError("this model gives boxes only; train with mask_head=conv4 for masks")
            threshold, rule = self.mask_threshold, self.mask_rule
            pasted = paste_masks(self.probabilities, self.boxes, self.size, threshold=threshold, rule=rule)
            self.pasted = [(each.x0, each.y0, each.bitmap.numpy()) for each in pasted]
        return self.pasted

    def bitmaps(self) -> NDArray[np.bool_]:
        """Full-size masks: bool [N, height, width]; costs N times the image."""
        full = np.zeros((len(self), *self.size), np.bool_)
        for image, (x0, y0, bitmap) in zip(full, self.crops(), strict=True):
            image[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]] = bitmap
        return full

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox x y width height, score and, with masks, segmentation."""
        corners = torch.cat([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], dim=1).tolist()
        results: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in zip(self.category_ids, corners, self.scores.tolist(), strict=True)
        ]
        if self.has_masks:
            for result, code in zip(results, self.rle(), strict=True):
                result["segmentation"] = code
        return results

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
