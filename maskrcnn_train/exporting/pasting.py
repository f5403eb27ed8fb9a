"""Masks in the image inside the graph: the rules of structures/pasting.py as two small matrix products a mask."""

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_train.structures.pasting import MaskPasting, rounded_boxes


class MaskPaster(torch.nn.Module):
    """masks float32 [N, M, M] inside boxes [N, 4] (image pixels), size int64 [2] -> uint8 [N, height, width]."""

    def __init__(self, pasting: MaskPasting) -> None:
        super().__init__()
        self.threshold = pasting.threshold
        self.continuous = pasting.rule == "continuous"
        self.paste = torch.jit.script(paste_all)

    def forward(self, masks: Tensor, boxes: Tensor, size: Tensor) -> Tensor:
        if not self.continuous:
            low, high = rounded_boxes(boxes, masks.shape[-1]).split(2, dim=1)
            boxes = torch.cat((low, torch.maximum(high, low) + 1), dim=1).to(torch.float32)  # x2 y2 one beyond
            masks = F.pad(masks, (1, 1, 1, 1))
        pasted: Tensor = self.paste(masks, boxes, size, self.threshold, self.continuous)
        return pasted


def paste_all(masks: Tensor, boxes: Tensor, size: Tensor, threshold: float, continuous: bool) -> Tensor:
    """One mask at a time: all at once would need four bytes a pixel for each."""
    height, width = int(size[0]), int(size[1])
    full = torch.zeros([0, height, width], dtype=torch.uint8)
    if masks.shape[0] > 0:
        pasted = []
        for index in range(masks.shape[0]):
            box = boxes[index]
            rows = axis_weights(box[1], box[3], height, masks.shape[1], continuous)
            columns = axis_weights(box[0], box[2], width, masks.shape[2], continuous)
            values = rows.matmul(masks[index]).matmul(columns.transpose(0, 1))
            inside = values >= threshold if continuous else values > threshold
            pasted.append(inside.to(torch.uint8))
        full = torch.stack(pasted)
    return full


def axis_weights(low: Tensor, high: Tensor, length: int, cells: int, continuous: bool) -> Tensor:
    """Bilinear weights [length, cells] of a mask's cells for each pixel of an axis; the mask spans low..high."""
    pixels = torch.arange(length).to(torch.float32)
    positions = (pixels + 0.5 - low) / (high - low) * cells - 0.5
    if continuous:  # fades beyond the outermost cells, at most a pixel beyond the box
        inside = (pixels >= torch.floor(low) - 1) & (pixels < torch.ceil(high) + 1)
    else:  # the outermost cells reach to the border
        inside = (pixels >= low) & (pixels < high)
        positions = positions.clamp(0.0, float(cells - 1))
    distances = positions.unsqueeze(1) - torch.arange(cells).to(torch.float32)
    return (1.0 - distances.abs()).clamp(min=0.0) * inside.unsqueeze(1).to(torch.float32)
