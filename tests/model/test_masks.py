"""Mask targets against RoIAlign of full-size masks, pasting against torchvision and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_model import dense_targets, paste_full
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes
from torchvision.ops import roi_align

from maskrcnn_train.model.mask_targets import crops_from_dense, targets_in_boxes
from maskrcnn_train.structures.pasting import MaskPasting, paste_masks

SIZE = (64, 80)


def proposals() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((40, 2), generator=generator) * torch.tensor([70.0, 54.0])
    sides = torch.rand((40, 2), generator=generator) ** 2 * 60 + 0.5
    boxes = torch.cat((corners, torch.minimum(corners + sides, torch.tensor([80.0, 64.0]))), dim=1)
    extremes = torch.tensor([[0.0, 0, 80, 64], [0, 0, 0.3, 0.4], [79.5, 63.5, 80, 64], [10, 10, 66, 38], [5, 0, 6, 64]])
    return torch.cat((boxes, extremes))


def test_crops_hold_the_dense_masks() -> None:
    dense = dense_targets(SIZE)[0]["masks"]
    assert isinstance(dense, Tensor)
    assert torch.equal(crops_from_dense(dense).dense(), dense)
    empty = torch.zeros((2, 8, 8), dtype=torch.uint8)
    assert torch.equal(crops_from_dense(empty).dense(), empty)


def test_soft_targets_equal_torchvisions_projection() -> None:
    dense, boxes = dense_targets(SIZE)[0]["masks"], proposals()
    assert isinstance(dense, Tensor)
    matches = torch.arange(len(boxes)) % 3
    expected = project_masks_on_boxes(dense, boxes, matches, 28)
    found = targets_in_boxes(crops_from_dense(dense), boxes, matches, 28, rule="soft")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert bool(((found > 0.01) & (found < 0.99)).any())


def test_binary_targets_equal_detectron2s_rule() -> None:
    dense, boxes = dense_targets(SIZE)[0]["masks"], proposals()
    assert isinstance(dense, Tensor)
    matches = torch.arange(len(boxes)) % 3
    rois = torch.cat((matches[:, None].float(), boxes), dim=1)
    share = roi_align(dense[:, None].float(), rois, 28, 1.0, 0, True)[:, 0]
    found = targets_in_boxes(crops_from_dense(dense), boxes, matches, 28, rule="binary")
    certain = (share - 0.5).abs() > 1e-5  # at exactly one half the last bit of a sum decides
    assert torch.equal(found[certain], (share >= 0.5).float()[certain])
    assert set(found.unique().tolist()) == {0.0, 1.0}


def test_no_proposals_give_no_targets() -> None:
    masks = crops_from_dense(torch.ones((1, 8, 8)))
    nothing = targets_in_boxes(masks, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 28, rule="soft")
    assert nothing.shape == (0, 28, 28)


def predictions() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    small = torch.rand((45, 1, 5, 5), generator=generator)
    return F.interpolate(small, size=(28, 28), mode="bilinear"), proposals()


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_integer_pasting_equals_torchvisions(threshold: float) -> None:
    probabilities, boxes = predictions()
    expected = (paste_masks_in_image(probabilities, boxes, SIZE)[:, 0] > threshold).to(torch.uint8)
    assert torch.equal(paste_full(probabilities, boxes, SIZE, MaskPasting(threshold, "integer")), expected)


def test_continuous_pasting_equals_sampling_the_whole_image() -> None:
    probabilities, boxes = predictions()
    ys, xs = torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5
    found = paste_full(probabilities, boxes, SIZE, MaskPasting(0.5, "continuous"))
    for mask, box, pasted in zip(probabilities, boxes, found, strict=True):
        grid_x = ((xs - box[0]) / (box[2] - box[0]) * 2 - 1).expand(SIZE)
        grid_y = ((ys - box[1]) / (box[3] - box[1]) * 2 - 1)[:, None].expand(SIZE)
        whole = F.grid_sample(mask[None], torch.stack((grid_x, grid_y), dim=-1)[None], align_corners=False)[0, 0]
        assert torch.equal(pasted, (whole >= 0.5).to(torch.uint8))


def test_the_two_rules_by_hand() -> None:
    full, box = torch.ones(1, 1, 28, 28), torch.tensor([[2.0, 3.0, 6.0, 9.0]])
    _, _, continuous = paste_masks(full, box, (20, 20), MaskPasting(0.5, "continuous"))[0]
    assert int(continuous.sum()) == 24  # exactly the box
    x0, y0, integer = paste_masks(full, box, (20, 20), MaskPasting(0.5, "integer"))[0]
    assert (x0, y0) == (1, 2)
    assert int(integer.sum()) == 6 * 8  # grown by 30/28, cut to whole pixels, both corners count
    assert integer.dtype == np.uint8


def test_bitmaps_cover_their_boxes_only() -> None:
    probabilities, boxes = predictions()
    for rule in ("integer", "continuous"):
        for (x0, y0, bitmap), box in zip(
            paste_masks(probabilities, boxes, SIZE, MaskPasting(0.5, rule)), boxes.tolist(), strict=True
        ):
            height, width = bitmap.shape
            assert height <= (box[3] - box[1]) * 30 / 28 + 4
            assert width <= (box[2] - box[0]) * 30 / 28 + 4
            assert x0 >= 0
            assert y0 + height <= SIZE[0]
    assert paste_masks(probabilities[:0], boxes[:0], SIZE, MaskPasting(0.5, "integer")) == []
