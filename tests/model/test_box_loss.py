"""The losses of boxes equal torchvision's, count positives alone, and train without a wait."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from maskrcnn_train.model.box_loss import BoxLoss, iou_loss
from maskrcnn_train.model.boxes import BoxCoder

CODER = BoxCoder(shift_weight=10.0, scale_weight=5.0)
THEIRS = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = 80 * torch.rand((count, 2), generator=generator)
    return torch.cat((corners, corners + 1 + 60 * torch.rand((count, 2), generator=generator)), dim=1)


@pytest.mark.parametrize("kind", THEIRS)
def test_iou_losses_and_their_gradients_equal_torchvisions(kind: str) -> None:
    boxes, gt_boxes = random_boxes(200, 0), random_boxes(200, 1)
    gt_boxes[:20], gt_boxes[20:40] = boxes[:20], boxes[20:40] + 200  # equal, and far apart

    def loss_and_gradient(loss: Callable[..., Tensor], *extra: str) -> tuple[Tensor, Tensor]:
        moved = boxes.clone().requires_grad_()
        values = loss(moved, gt_boxes, *extra)
        return values.detach(), torch.autograd.grad(values.sum(), moved)[0]

    ours, theirs = loss_and_gradient(iou_loss, kind), loss_and_gradient(THEIRS[kind])
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1][20:], theirs[1][20:])  # that of equal boxes is a choice: the kink of |x|


@pytest.mark.parametrize("kind", ["smooth_l1", *THEIRS])
def test_only_positives_count(kind: str) -> None:
    references, gt_boxes = random_boxes(6, 2), random_boxes(6, 3)
    references[5] = 0  # fills up, where fewer are drawn
    positive = torch.tensor([True, False, True, False, True, False])
    targets = torch.where(positive[:, None], CODER.encode(gt_boxes, references), 0)
    deltas = (targets + 0.5).requires_grad_()

    def loss(rows: slice | Tensor) -> Tensor:
        of_kind = BoxLoss(kind, beta=1 / 9, coder=CODER)
        return of_kind(deltas[rows], targets[rows], positive[rows], lambda: references[rows])

    total = loss(slice(None))
    torch.testing.assert_close(total, loss(positive))
    (gradient,) = torch.autograd.grad(total, deltas)
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(1) > 0).equal(positive)
    assert float(loss(slice(1, 2)).detach()) == 0


@pytest.mark.parametrize("kind", THEIRS)
def test_a_box_without_a_side_has_a_finite_loss(kind: str) -> None:
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0]], requires_grad=True)
    loss = iou_loss(boxes, torch.tensor([[0.0, 0.0, 9.0, 4.0]]), kind).sum()
    loss.backward()
    assert loss.isfinite()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()
