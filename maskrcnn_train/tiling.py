"""Large images in overlapping tiles, and one set of detections from those of the tiles.

Two detections of one class from two tiles are one object if they agree where both tiles look: if the masks there
(boxes, in a model without masks) have an IoU of at least 0.5, or, where a tile's border cuts one of them, if half of
the smaller is in the other. An object is everything that is joined so, over any number of tiles: masks and boxes are
united, the best score counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn_train.detections import Crop, Detections

Window = tuple[int, int, int, int]  # x0 y0 x1 y1, x1 and y1 exclusive, pixels of the image
AGREEMENT = 0.5
CUT_MARGIN = 0.02  # of the tile's side: a box that ends closer to the border is cut by it


@dataclass(frozen=True)
class Tiles:
    """size: side of the square tiles, pixels of the image. overlap: share of a side that the next tile sees too."""

    size: int
    overlap: float

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """Windows that cover an image of (height, width), evenly spread; one where it is no larger than a tile."""
        rows, columns = (self._spans(length) for length in size)
        return [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]

    def _spans(self, length: int) -> list[tuple[int, int]]:
        if length <= self.size:
            return [(0, length)]
        step = max(1.0, self.size * (1 - self.overlap))
        count = math.ceil((length - self.size) / step) + 1
        starts = [round(index * (length - self.size) / (count - 1)) for index in range(count)]
        return [(start, start + self.size) for start in starts]


@dataclass
class _Piece:
    """An object as one tile sees it. row: its place among all detections; mask: inside the image, or None."""

    row: int
    window: Window
    label: int
    box: list[float]
    mask: Crop | None
    cut: bool


def merge_tiles(windows: Sequence[Window], found: Sequence[Detections], size: tuple[int, int]) -> Detections:
    """Detections of an image of `size` (height, width) from those of its tiles, best score first."""
    everything = _join([_moved(each, window, size) for each, window in zip(found, windows, strict=True)])
    owners = [window for each, window in zip(found, windows, strict=True) for _ in range(len(each))]
    masks = everything.crops() if everything.has_masks else [None] * len(everything)
    pieces = [
        _Piece(row, window, label, box, mask, _is_cut(box, window, size))
        for row, (window, label, box, mask) in enumerate(
            zip(owners, everything.labels.tolist(), everything.boxes.tolist(), masks, strict=True)
        )
    ]
    groups = _groups(pieces)
    merged = everything.keep_rows([max(group, key=lambda row: float(everything.scores[row])) for group in groups])
    merged.boxes = torch.stack(
        [torch.cat((everything.boxes[group, :2].amin(0), everything.boxes[group, 2:].amax(0))) for group in groups]
        or [torch.zeros(4)]
    )[: len(groups)]
    if everything.has_masks:
        merged.pasted = [_united([mask for row in group if (mask := masks[row]) is not None]) for group in groups]
        merged.probabilities = None
    return merged.keep_rows(merged.scores.argsort(descending=True).tolist())


def _moved(found: Detections, window: Window, size: tuple[int, int]) -> Detections:
    """The detections of a tile in the pixels of the image."""
    x0, y0, _, _ = window
    pasted = [(x + x0, y + y0, bitmap) for x, y, bitmap in found.crops()] if found.has_masks else None
    boxes = found.boxes + torch.tensor([x0, y0, x0, y0])
    return replace(found, boxes=boxes, size=size, pasted=pasted, probabilities=None)


def _join(parts: Sequence[Detections]) -> Detections:
    return replace(
        parts[0],
        boxes=torch.cat([part.boxes for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        class_names=[name for part in parts for name in part.class_names],
        category_ids=[number for part in parts for number in part.category_ids],
        pasted=[crop for part in parts for crop in part.crops()] if parts[0].has_masks else None,
    )


def _is_cut(box: list[float], window: Window, size: tuple[int, int]) -> bool:
    """Whether a border of the tile that is none of the image ends the box."""
    margin = CUT_MARGIN * max(window[2] - window[0], window[3] - window[1])
    ends = (window[0] > 0, window[1] > 0, window[2] < size[1], window[3] < size[0])
    return any(inner and abs(box[i] - window[i]) <= margin for i, inner in enumerate(ends))


def _groups(pieces: list[_Piece]) -> list[list[int]]:
    """Rows that belong together, transitively."""
    root = list(range(len(pieces)))

    def find(row: int) -> int:
        while root[row] != row:
            row = root[row]
        return row

    for a, b in combinations(pieces, 2):
        if a.label == b.label and a.window != b.window and _agree(a, b):
            root[find(b.row)] = find(a.row)
    groups: dict[int, list[int]] = {}
    for piece in pieces:
        groups.setdefault(find(piece.row), []).append(piece.row)
    return list(groups.values())


def _agree(a: _Piece, b: _Piece) -> bool:
    x0, y0 = max(a.window[0], b.window[0]), max(a.window[1], b.window[1])
    x1, y1 = min(a.window[2], b.window[2]), min(a.window[3], b.window[3])
    low_x, high_x = max(a.box[0], b.box[0], x0), min(a.box[2], b.box[2], x1)
    low_y, high_y = max(a.box[1], b.box[1], y0), min(a.box[3], b.box[3], y1)
    if low_x >= high_x or low_y >= high_y:
        return False
    if a.mask is None or b.mask is None:
        common = (high_x - low_x) * (high_y - low_y)
        areas = [_visible_area(piece.box, (x0, y0, x1, y1)) for piece in (a, b)]
    else:
        first, second = _inside(a.mask, (x0, y0, x1, y1)), _inside(b.mask, (x0, y0, x1, y1))
        common = float((first & second).sum())
        areas = [float(first.sum()), float(second.sum())]
    whole = min(areas) if a.cut or b.cut else sum(areas) - common
    return whole > 0 and common / whole >= AGREEMENT


def _visible_area(box: list[float], window: Window) -> float:
    width = min(box[2], window[2]) - max(box[0], window[0])
    return max(0.0, width) * max(0.0, min(box[3], window[3]) - max(box[1], window[1]))


def _inside(crop: Crop, window: Window) -> NDArray[np.bool_]:
    """The mask in a window of the image: bool [y1 - y0, x1 - x0]."""
    x0, y0, x1, y1 = window
    full = np.zeros((y1 - y0, x1 - x0), np.bool_)
    _put(full, crop, x0, y0)
    return full


def _united(crops: Sequence[Crop]) -> Crop:
    """One crop that holds all masks."""
    if len(crops) == 1:
        return crops[0]
    left, top = min(crop[0] for crop in crops), min(crop[1] for crop in crops)
    right = max(x + bitmap.shape[1] for x, _, bitmap in crops)
    bottom = max(y + bitmap.shape[0] for _, y, bitmap in crops)
    full = np.zeros((bottom - top, right - left), np.bool_)
    for crop in crops:
        _put(full, crop, left, top)
    return left, top, full.astype(np.uint8)


def _put(full: NDArray[np.bool_], crop: Crop, left: int, top: int) -> None:
    """Add the part of a crop that lies within `full`, whose corner is at (left, top) of the image."""
    x, y, bitmap = crop
    x0, y0 = max(x, left), max(y, top)
    x1, y1 = min(x + bitmap.shape[1], left + full.shape[1]), min(y + bitmap.shape[0], top + full.shape[0])
    if x0 < x1 and y0 < y1:
        full[y0 - top : y1 - top, x0 - left : x1 - left] |= bitmap[y0 - y : y1 - y, x0 - x : x1 - x] > 0
