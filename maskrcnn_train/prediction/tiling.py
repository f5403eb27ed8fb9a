"""Large images in overlapping tiles, and one set of detections from those of the tiles.

Two detections of one class from two tiles are one object if they agree where the tiles overlap: if the masks there
(boxes, in a model without masks) have an IoU of at least 0.5. Where a tile's border cuts one of them, half of the
smaller must be in the other. An object may span any number of tiles: its masks and boxes are united, and its best score
counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn_train.structures.corners import box_areas, common_part
from maskrcnn_train.structures.detections import Detections, join_detections
from maskrcnn_train.structures.pasting import Crop
from maskrcnn_train.structures.tiles import Window

AGREEMENT = 0.5
CUT_MARGIN = 0.02  # of the tile's side: a box that ends closer to the border is cut by it


@dataclass
class _Piece:
    """An object as one tile sees it. row: its index among all detections; mask: inside the image, or None."""

    row: int
    window: Window
    label: int
    box: list[float]
    mask: Crop | None
    cut: bool


def merge_tiles(windows: Sequence[Window], found: Sequence[Detections], size: tuple[int, int]) -> Detections:
    """Detections of an image of `size` (height, width) from those of its tiles, best score first."""
    everything = join_detections([_moved(each, window, size) for each, window in zip(found, windows, strict=True)])
    owners = [window for each, window in zip(found, windows, strict=True) for _ in range(len(each))]
    masks = everything.crops() if everything.has_masks else [None] * len(everything)
    columns = zip(owners, everything.labels.tolist(), everything.boxes.tolist(), masks, strict=True)
    pieces = [_Piece(row, *each, cut=_is_cut(each[2], each[0], size)) for row, each in enumerate(columns)]
    groups = _groups(pieces)
    best = [max(group, key=lambda row: float(everything.scores[row])) for group in groups]
    merged = everything[torch.tensor(best, dtype=torch.int64)]
    ends = [(everything.boxes[group, :2].amin(0), everything.boxes[group, 2:].amax(0)) for group in groups]
    boxes = torch.cat([end for pair in ends for end in pair] or [torch.zeros(0)]).reshape(-1, 4)
    pasted = None
    if everything.has_masks:
        pasted = [_united([mask for row in group if (mask := masks[row]) is not None]) for group in groups]
    merged = replace(merged, boxes=boxes, pasted=pasted)
    return merged[merged.scores.argsort(descending=True)]


def _moved(found: Detections, window: Window, size: tuple[int, int]) -> Detections:
    """The detections of a tile in the pixels of the image."""
    x0, y0, _, _ = window
    pasted = [(x + x0, y + y0, bitmap) for x, y, bitmap in found.crops()] if found.has_masks else None
    boxes = found.boxes + torch.tensor([x0, y0, x0, y0])
    return replace(found, boxes=boxes, size=size, pasted=pasted, probabilities=None)


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

    for a, b in _candidates(pieces):
        if _agree(a, b):
            root[find(b.row)] = find(a.row)
    groups: dict[int, list[int]] = {}
    for piece in pieces:
        groups.setdefault(find(piece.row), []).append(piece.row)
    return list(groups.values())


def _candidates(pieces: list[_Piece]) -> Iterator[tuple[_Piece, _Piece]]:
    """Pairs of one class and different tiles whose boxes overlap: few of all pairs."""
    boxes = np.array([piece.box for piece in pieces]).reshape(-1, 4)
    labels = np.array([piece.label for piece in pieces])
    for first, piece in enumerate(pieces):
        later = slice(first + 1, None)
        near = (box_areas(common_part(boxes[later], boxes[first])) > 0) & (labels[later] == piece.label)
        for second in np.flatnonzero(near) + first + 1:
            if pieces[second].window != piece.window:
                yield piece, pieces[second]


def _agree(a: _Piece, b: _Piece) -> bool:
    """The rule at the head of this file."""
    strip = _common(a.window, b.window)
    if a.mask is None or b.mask is None:
        common = _area(_common(_common(tuple(a.box), tuple(b.box)), strip))
        areas = [_area(_common(tuple(piece.box), strip)) for piece in (a, b)]
    else:
        both = _common(_common(_extent(a.mask), _extent(b.mask)), strip)
        if _area(both) == 0:
            return False
        common = float((_part(a.mask, both) & _part(b.mask, both)).sum())
        areas = [float(_part(mask, _common(_extent(mask), strip)).sum()) for mask in (a.mask, b.mask)]
    whole = min(areas) if a.cut or b.cut else sum(areas) - common
    return whole > 0 and common / whole >= AGREEMENT


def _common(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where two rectangles x0 y0 x1 y1 overlap."""
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _area(box: tuple[Any, ...]) -> float:
    return float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))


def _extent(crop: Crop) -> tuple[int, int, int, int]:
    x, y, bitmap = crop
    return x, y, x + bitmap.shape[1], y + bitmap.shape[0]


def _part(crop: Crop, window: tuple[Any, ...]) -> NDArray[np.uint8]:
    """The pixels of a crop in a window within it."""
    x, y, bitmap = crop
    return bitmap[window[1] - y : window[3] - y, window[0] - x : window[2] - x]


def _united(crops: Sequence[Crop]) -> Crop:
    """One crop that holds all masks."""
    if len(crops) == 1:
        return crops[0]
    left, top = min(crop[0] for crop in crops), min(crop[1] for crop in crops)
    right = max(x + bitmap.shape[1] for x, _, bitmap in crops)
    bottom = max(y + bitmap.shape[0] for _, y, bitmap in crops)
    full = np.zeros((bottom - top, right - left), np.uint8)
    for x, y, bitmap in crops:
        full[y - top : y - top + bitmap.shape[0], x - left : x - left + bitmap.shape[1]] |= bitmap
    return left, top, full
