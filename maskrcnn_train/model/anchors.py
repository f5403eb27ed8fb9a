"""Anchors: the boxes that the RPN scores and moves."""

import torch
from torch import Tensor

from maskrcnn_train.model.modes import is_tracing

FIXED_STRIDES = (4, 8, 16, 32, 64)


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
        self._largest: dict[tuple[int, tuple[int, int], torch.device], Tensor] = {}  # of a level with its strides

    def __call__(self, image_size: tuple[int, int], grids: list[tuple[int, int]], device: torch.device) -> Tensor:
        """Anchors [A, 4] for a padded image of (height, width) and feature maps of `grids` (height, width)."""
        levels = []
        for level, (rows, columns) in enumerate(grids):
            # no number is read from the sizes, so that a trace may follow them
            fixed = FIXED_STRIDES[level]
            strides = (fixed, fixed) if self.fixed else (image_size[0] // rows, image_size[1] // columns)
            of_level = self._of_level if is_tracing() else self._part_of_largest
            levels.append(of_level(level, (rows, columns), strides, device))
        return torch.cat([anchors.reshape(-1, 4) for anchors in levels])

    def _part_of_largest(
        self, level: int, grid: tuple[int, int], strides: tuple[int, int], device: torch.device
    ) -> Tensor:
        """The same as `_of_level`. The largest grid that was seen is kept: it begins with the smaller ones."""
        largest = self._largest.get((level, strides, device))
        seen = (0, 0) if largest is None else (largest.shape[0], largest.shape[1])
        if largest is None or grid[0] > seen[0] or grid[1] > seen[1]:
            of_both = max(grid[0], seen[0]), max(grid[1], seen[1])
            largest = self._largest[level, strides, device] = self._of_level(level, of_both, strides, device)
        return largest[: grid[0], : grid[1]]

    def _of_level(self, level: int, grid: tuple[int, int], strides: tuple[int, int], device: torch.device) -> Tensor:
        """Anchors [rows, columns, R, 4] of a level."""
        ys, xs = (
            torch.arange(count, dtype=torch.float32, device=device) * stride
            for count, stride in zip(grid, strides, strict=True)
        )
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        cells = self.cells[level].to(device, non_blocking=True)  # a few numbers, for which a GPU is not waited for
        return torch.stack((x, y, x, y), dim=-1)[:, :, None] + cells
