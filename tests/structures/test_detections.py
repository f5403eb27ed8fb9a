"""Detections: rows, sizes, masks as codes, and the forms of other programs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from small_model import paste_full

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.detections import Detections, join_detections
from maskrcnn_train.structures.pasting import MaskPasting

CLASSES = ClassMap(names=["door", "window"], ids=[3, 7])


def detections(rule: str = "integer", count: int = 12, with_masks: bool = True) -> Detections:
    """Boxes in an image of 60 x 70 pixels, some beyond its borders."""
    torch.manual_seed(0)
    probabilities = torch.rand(count, 1, 28, 28)
    corners = torch.rand(count, 2) * 60 - 10
    boxes = torch.cat([corners, corners + 1 + 50 * torch.rand(count, 2)], dim=1)
    boxes[:1] = torch.tensor([0.0, 0, 70, 60])
    boxes[1:2] = torch.tensor([200.0, 200, 220, 230])  # outside the image
    scores = torch.linspace(1, 0.1, count)
    found = Detections(boxes, torch.arange(count) % 2 + 1, scores, (60, 70), classes=CLASSES)
    found.pasting = MaskPasting(0.5, rule)
    found.probabilities = probabilities if with_masks else None
    return found


@pytest.mark.parametrize("rule", ["integer", "continuous"])
def test_masks_encode_as_the_pasted_full_size_masks(rule: str) -> None:
    found = detections(rule)
    assert found.probabilities is not None
    full = paste_full(found.probabilities, found.boxes, (60, 70), MaskPasting(0.5, rule)).numpy()
    assert np.array_equal(found.bitmaps(), full.astype(bool))
    for code, mask in zip(found.rle(), full, strict=True):
        assert code["counts"] == coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    assert detections(rule, count=0).rle() == []


def test_rows_are_kept_with_their_masks_before_and_after_pasting() -> None:
    found = detections()
    before = found[torch.tensor([4, 2])]
    codes = found.rle()  # pastes
    for part in (before, found[torch.tensor([4, 2])]):
        assert torch.equal(part.scores, found.scores[[4, 2]])
        assert part.rle() == [codes[4], codes[2]]
    assert found[found.scores > 0.5].rle() == codes[: int((found.scores > 0.5).sum())]
    windows = found.keep_classes(["window"])
    assert set(windows.class_names) == {"window"}
    assert windows.rle() == codes[1::2]


def test_coco_results_have_the_ids_of_the_training_data() -> None:
    found = detections()
    first, second, *_ = found.to_coco(image_id=9)
    assert (first["image_id"], first["category_id"], second["category_id"]) == (9, 3, 7)
    assert (first["bbox"], second["bbox"]) == ([0, 0, 70, 60], [200, 200, 20, 30])
    assert first["segmentation"] == found.rle()[0]
    assert found.category_ids[:2] == [3, 7]


def test_without_masks_there_are_boxes_only() -> None:
    found = detections(with_masks=False)
    assert set(found.to_coco(1)[0]) == {"image_id", "category_id", "bbox", "score"}
    assert set(found.to_torchvision()) == {"boxes", "labels", "scores"}
    with pytest.raises(UserError, match="boxes only"):
        found.crops()


def test_resizing_moves_the_boxes_and_knows_the_new_size() -> None:
    found = detections().resized((30, 140))
    assert found.size == (30, 140)
    assert found.boxes[0].tolist() == [0, 0, 140, 30]


def test_joined_parts_keep_their_order_and_masks() -> None:
    found = detections()
    first, second = found[torch.arange(5)], found[torch.arange(5, 12)]
    assert join_detections([first, second]).to_coco(1) == found.to_coco(1)
    first.crops(), second.crops()
    assert join_detections([first, second]).to_coco(1) == found.to_coco(1)
