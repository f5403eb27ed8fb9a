"""Anchors: the boxes that the RPN scores and moves."""

import torch
from torch import Tensor

from maskrcnn_train.model.kept import KeptByShape
from maskrcnn_train.model.modes import is_tracing

FIXED_STRIDES = (4, 8, 16, 32, 64)
KEPT_SHAPES = 8  # of images whose anchors are kept: about 4 MB each at 800 x 1344


def cell_anchors(size: float, aspect_ratios: list[float], rounding: bool) -> Tensor:
    """Anchors [R, 4] around the origin: area size^2, one for each ratio height / width.

    `rounding` to whole corners is torchvision's rule: 32 px, ratio 0.5 gives 46 x 22, not 45.25 x 22.63.
    """
    root = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
    widths, heights = 1 / root * size, root * size
    anchors = torch.stack((-widths, -heights, widths, heights), dim=1) / 2
    return anchors.round() if rounding else anchors


class AnchorGrid:
    """Anchors at every position of every level, in the order of the RPN's predictions: level, row, column, ratio.

    sizes: one for each level, network pixels. strides: `inferred` (padded image size // grid size: torchvision;
    on P6 this may be 61 instead of 64) or `fixed` (4, 8, 16, 32, 64: Detectron2).
    """

    def __init__(self, *, sizes: list[float], aspect_ratios: list[float], rounding: bool, strides: str) -> None:
        self.cells = [cell_anchors(size, aspect_ratios, rounding) for size in sizes]
        self.num_per_position = len(aspect_ratios)
        self.fixed = strides == "fixed"
        self._kept = KeptByShape[Tensor](KEPT_SHAPES)

    def __call__(self, image_size: tuple[int, int], grids: list[tuple[int, int]], device: torch.device) -> Tensor:
        """Anchors [A, 4] for a padded image of (height, width) and feature maps of `grids` (height, width)."""
        if is_tracing():
            return self._make(image_size, grids, device)
        shapes = image_size, tuple(grids), device
        return self._kept.get(shapes, lambda: self._make(image_size, grids, device))

    def _make(self, image_size: tuple[int, int], grids: list[tuple[int, int]], device: torch.device) -> Tensor:
        anchors = []
        for (rows, columns), cells, fixed in zip(grids, self.cells, FIXED_STRIDES, strict=True):
            # no number is read from the sizes, so that a trace may follow them
            stride_y, stride_x = (fixed, fixed) if self.fixed else (image_size[0] // rows, image_size[1] // columns)
            ys = torch.arange(rows, dtype=torch.float32, device=device) * stride_y
            xs = torch.arange(columns, dtype=torch.float32, device=device) * stride_x
            y, x = torch.meshgrid(ys, xs, indexing="ij")
            shifts = torch.stack((x, y, x, y), dim=-1)
            anchors.append((shifts[:, :, None] + cells.to(device)).reshape(-1, 4))
        return torch.cat(anchors)
