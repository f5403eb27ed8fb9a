"""The page to look through doubtful labels: of each a piece of the picture with the label and what was detected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from maskrcnn_train.data.images import ImageError
from maskrcnn_train.files import write_text
from maskrcnn_train.labelling.suspicion import KINDS, Doubt
from maskrcnn_train.reporting.drawing.outlines import box_path, mask_path
from maskrcnn_train.reporting.pages.gallery import Scene, jpeg_address
from maskrcnn_train.reporting.pages.html import render
from maskrcnn_train.structures.rle import decode_crop

LABELS_PAGE = "labels.html"
AROUND = 1.9  # side of the piece that is shown, in those of what is in doubt
SMALLEST_PIECE = 64  # pixels of the image
PICTURE_SIDE = 400  # pixels of the page's picture
MOST_ENLARGED = 6.0


@dataclass
class Piece:
    """A piece of a picture. address: a data: URL; width, height: its pixels. entry: the doubt, as doubts.json has it.

    label, found: SVG paths of the label, and of the detection, empty where there is none.
    """

    entry: Mapping[str, Any]
    address: str
    width: int
    height: int
    label: list[str]
    found: list[str]


def write_labels_page(
    folder: Path, entries: Sequence[Mapping[str, Any]], doubts: Sequence[Doubt], scene: Scene
) -> Path:
    """Write the page of the first doubts and return its path.

    entries: those to show, as doubts.json has them; doubts: the same, and the rest.
    """
    rows = {image["id"]: row for row, image in enumerate(scene.ground_truth["images"])}
    pieces, unreadable = [], []
    for entry, doubt in zip(entries, doubts, strict=False):
        try:
            pieces.append(_piece(scene, rows[doubt.image_id], entry, doubt))
        except ImageError as error:
            unreadable.append(str(error))
    counts = Counter(each.entry["kind"] for each in pieces)
    classes = Counter(name for each in pieces for name in {each.entry["class"], each.entry["proposed"]} if name)
    page = render(
        "labels.html.j2",
        title=folder.resolve().name,
        pieces=pieces,
        total=len(doubts),
        kind_counts=[(kind, meaning, counts[kind]) for kind, meaning in KINDS.items() if counts[kind]],
        class_counts=sorted(classes.items()),
        unreadable=unreadable,
    )
    return write_text(folder / LABELS_PAGE, page)


def _piece(scene: Scene, row: int, entry: Mapping[str, Any], doubt: Doubt) -> Piece:
    image = scene.ground_truth["images"][row]
    whole = (image["height"], image["width"])
    labels = [scene.ground_truth["annotations"][each] for each in (doubt.label, doubt.twin) if each is not None]
    found = [] if doubt.found is None else [scene.results[doubt.found]]
    x0, y0, x1, y1 = _window([each["bbox"] for each in (*labels, *found)], whole)
    scale = min(PICTURE_SIDE / max(x1 - x0, y1 - y0), MOST_ENLARGED)
    width, height = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    picture = scene.reader.show(scene.reader.read(scene.paths[image["id"]], expected=whole)).crop((x0, y0, x1, y1))
    return Piece(
        entry,
        jpeg_address(picture.resize((width, height), Image.Resampling.BICUBIC)),
        width,
        height,
        [path for each in labels for path in _paths(each, x0, y0, scale, scene.kind)],
        [path for each in found for path in _paths(each, x0, y0, scale, scene.kind)],
    )


def _window(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """x0 y0 x1 y1 of a square around boxes x y w h, as far as the image goes."""
    low = [min(box[axis] for box in boxes) for axis in (0, 1)]
    high = [max(box[axis] + box[axis + 2] for box in boxes) for axis in (0, 1)]
    side = math.ceil(max(AROUND * max(high[0] - low[0], high[1] - low[1]), SMALLEST_PIECE))
    ends = []
    for axis, length in ((0, size[1]), (1, size[0])):
        start = round(min(max((low[axis] + high[axis] - side) / 2, 0), max(length - side, 0)))
        ends.append((start, min(start + side, length)))
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


def _paths(item: Mapping[str, Any], x0: int, y0: int, scale: float, kind: str) -> list[str]:
    """The box, and the mask where there is one, in pixels of the piece."""
    x, y, width, height = item["bbox"]
    paths = [box_path([x - x0, y - y0, width, height], scale)]
    if kind == "segm":
        left, top, bitmap = decode_crop(item["segmentation"])
        paths.append(mask_path(left - x0, top - y0, bitmap, scale))
    return [path for path in paths if path]
