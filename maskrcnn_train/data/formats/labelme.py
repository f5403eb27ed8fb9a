"""LabelMe's labels: a JSON beside each picture, with `shapes`; those of one label and `group_id` are one object.

Shapes as in https://github.com/wkentaro/labelme: polygon, rectangle (two corners), circle (middle and a point on it),
and mask (a PNG in base64, with its first and last pixel). A rectangle and a circle are filled, as LabelMe draws them.
"""

import base64
import binascii
import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_train.data.coco.masks import FARTHEST
from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles, LabelledImage, LabelledObject, Reader
from maskrcnn_train.data.formats.masks import (
    add_shape,
    filled_box,
    needs_bitmap,
    object_regions,
    polygon_fault,
    run_lengths,
)
from maskrcnn_train.data.formats.pictures import (
    find_picture,
    given_size,
    is_file,
    split_folders,
    with_own_stems,
)
from maskrcnn_train.data.images import FAULTS
from maskrcnn_train.data.paths import common_folder, relative_path, visible_files
from maskrcnn_train.data.texts import read_json
from maskrcnn_train.files import write_json
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Bytes, Size
from maskrcnn_train.structures.outlines import ellipse

LOOKED_AT = 20  # JSONs of a folder, of which one shows that they are LabelMe's
VERSION = "5.5.0"  # of LabelMe, whose form is written
ANY = range(2, 2**30, 2)
POINTS = {"polygon": ANY, "rectangle": (4, 8), "rotation": (8,), "circle": (4,), "mask": ANY}  # how many numbers


def find(root: Path) -> dict[str, LabelFiles]:
    """The folders of LabelMe's JSONs: train, val, test where there are such, else all of it.

    One of these alone, beside pictures that are in none, is a folder like any other.
    """
    folders = split_folders(root) if root.is_dir() else {}
    outside = [each for each in _jsons(root) if folders and not any(map(each.is_relative_to, folders.values()))]
    loose = next(filter(_picture_of, outside), None)
    folders = {} if loose and len(folders) == 1 else folders
    note = f"LabelMe's files outside of {', '.join(folders)} are not used; first: {loose}" if loose and folders else ""
    parts = {name: folder for name, folder in (folders or {"train": root}).items() if any(_jsons(folder))}
    found = {}
    for name, folder in parts.items():
        first = next(filter(None, map(_picture_of, _jsons(folder)[:LOOKED_AT])), None)
        if first is None:
            return {}
        top = Path(os.path.abspath(folder))
        images = folder if first.is_relative_to(top) else common_folder([top, first.parent])
        found[name] = LabelFiles("labelme", images, folder, note=note)
    return found


def _jsons(folder: Path) -> list[Path]:
    return sorted(visible_files(folder, "*.json"))


def _read_labels(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UserError(f"{path} is none of LabelMe's files: it has no list of `shapes`")
    return content


def _picture_of(path: Path) -> Path | None:
    """The picture of a JSON; None where it is none of LabelMe's."""
    try:
        return _picture(path, _read_labels(path))
    except UserError:
        return None


def _picture(path: Path, content: dict[str, Any]) -> Path:
    """The absolute path of a JSON's picture: as it says, or beside it with the same name. Links are kept."""
    given = content.get("imagePath")
    named = path.parent / given.replace("\\", "/") if isinstance(given, str) and given and "\0" not in given else None
    if named is None or not is_file(named):
        named = find_picture(path.with_suffix("")) or named or path.with_suffix(".jpg")
    return Path(os.path.abspath(named))


class LabelmeReader(Reader):
    """Reads the JSONs of one folder."""

    def depends(self) -> list[Path]:
        given = self.files.annotations
        return _jsons(given) if given.is_dir() else [given]

    def items(self) -> list[Path]:
        return self.depends()

    def read(self, path: Path) -> LabelledImage:
        content = _read_labels(path)
        picture = _picture(path, content)
        try:
            name = picture.relative_to(os.path.abspath(self.files.images)).as_posix()
        except ValueError:
            raise UserError(f"{path}: its picture {picture} lies outside {self.files.images}") from None
        height, width = content.get("imageHeight"), content.get("imageWidth")
        image = LabelledImage(name, given_size(height, width, picture, str(path)))
        groups: dict[tuple[str, str], LabelledObject] = {}
        for number, shape in enumerate(content["shapes"], start=1):
            place = f"{path} shape {number}"
            label = shape.get("label") if isinstance(shape, dict) else None
            label = label.strip() if isinstance(label, str) else ""
            if not label:
                raise UserError(f"{place} has no label; give it one in LabelMe")
            try:
                found = LabelledObject(label, _segmentation(shape, image.size), place=place)
            except ValueError as error:
                image.leave_out(str(error), place)
                continue
            if shape.get("shape_type") == "rectangle":
                image.unused.append(("rectangle: its whole area is the mask", place, False))
            group = shape.get("group_id")
            add_shape(image, found, None if group is None else repr(group), groups)
        return image


def _segmentation(shape: dict[str, Any], size: Size) -> Any:
    """Raises ValueError with the reason where a shape has no area, or is broken."""
    kind, flat = shape.get("shape_type") or "polygon", _numbers(shape.get("points"))
    if not isinstance(kind, str) or kind not in POINTS:
        raise ValueError("a shape without an area")
    if flat is None or len(flat) not in POINTS[kind]:
        raise ValueError(f"{kind} without the points that it needs")
    if kind == "mask":
        try:
            return run_lengths(_decoded(str(shape.get("mask"))), round(flat[0]), round(flat[1]), size)
        except (*FAULTS, binascii.Error, Image.DecompressionBombError):
            raise ValueError("mask that cannot be read") from None
    if kind == "circle":
        radius = math.hypot(flat[2] - flat[0], flat[3] - flat[1])
        flat = ellipse((flat[0], flat[1]), (radius, radius)).ravel().tolist()
    elif kind == "rectangle" and len(flat) == 4:
        x0, y0, x1, y1 = flat
        flat = [x0, y0, x1, y0, x1, y1, x0, y1]
    if fault := polygon_fault(flat, size):
        raise ValueError(fault)
    return [flat]


def _numbers(points: Any) -> list[float] | None:
    """Points [[x, y], ...] as one list; None for anything else."""
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        return None
    flat = [value for point in points for value in point]
    numeric = all(type(value) in (int, float) and abs(value) < FARTHEST for value in flat)
    return flat if numeric else None


def _decoded(text: str) -> Bytes:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return (np.asarray(image.convert("L")) > 0).astype(np.uint8)


def write(folder: Path, data: DataSet, *, tolerance: float) -> None:
    """A JSON beside each picture, in a folder for each part; masks with holes, or without tolerance, as bitmaps."""
    for part, images in data.parts.items():
        place = folder if len(data.parts) == 1 else folder / part
        for image, picture in data.copied(with_own_stems(images), place):
            shapes: list[dict[str, Any]] = []
            for number, each in enumerate(image.objects, start=1):
                shapes += _shapes(each, image.size, tolerance, number)
            height, width = image.size
            name = picture.name if data.copies or image.path is None else relative_path(image.path, picture.parent)
            content: dict[str, Any] = {"version": VERSION, "flags": {}, "shapes": shapes, "imagePath": name}
            content |= {"imageData": None, "imageHeight": height, "imageWidth": width}
            write_json(picture.with_suffix(".json"), content, indent=2)


def _shapes(each: LabelledObject, size: Size, tolerance: float, group: int) -> list[dict[str, Any]]:
    """The shapes of one object; several parts get a group of their own. The score is its description."""
    common: dict[str, Any] = {"label": each.name, "group_id": None, "flags": {}, "mask": None,
                              "description": "" if each.score is None else f"score {each.score:.3f}"}  # fmt: skip
    if each.segmentation is None:
        assert each.box is not None
        x, y, w, h = each.box
        return [common | {"shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]}]
    regions = object_regions(each, size, tolerance)
    if needs_bitmap(each, regions, tolerance):
        x0, y0, bitmap = filled_box(each, size)
        file = io.BytesIO()
        Image.fromarray(bitmap * np.uint8(255)).convert("1").save(file, format="PNG")
        ends = [[x0, y0], [x0 + bitmap.shape[1] - 1, y0 + bitmap.shape[0] - 1]]
        return [common | {"shape_type": "mask", "points": ends, "mask": base64.b64encode(file.getvalue()).decode()}]
    common |= {"group_id": group if len(regions) > 1 else None, "shape_type": "polygon"}
    return [common | {"points": region[0].tolist()} for region in regions]
