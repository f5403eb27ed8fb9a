"""CVAT for images 1.1: one XML with the polygons, masks, boxes and ellipses of each picture.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat. A mask is run lengths along the rows of its box, zeros
first. Shapes of one label and group are one object, as in CVAT's export to COCO. A box has no mask. Parts of a data set
are the subsets of a project.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles, LabelledImage, LabelledObject, Reader
from maskrcnn_train.data.formats.masks import (
    Crop,
    add_shape,
    filled_box,
    needs_bitmap,
    object_regions,
    polygon_fault,
    run_lengths,
)
from maskrcnn_train.data.formats.pictures import checked_size, is_file, split_name
from maskrcnn_train.data.texts import write_lines
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Size
from maskrcnn_train.structures.outlines import ellipse, turned

HEAD = 2**16  # bytes in which <annotations> must begin
SUBSET = re.compile(rb'<image\s(?:[^>]*?\bsubset="([^"]*)")?')  # empty for an image without one
NO_AREA = ("polyline", "points", "cuboid", "skeleton")
Element = ElementTree.Element


def find(root: Path) -> dict[str, LabelFiles]:
    """The parts of an XML file, or of that in a folder, by its subsets; an XML without such subsets is all train."""
    paths = [root / "annotations.xml", *sorted(root.glob("*.xml"))] if root.is_dir() else [root]
    for path in paths:
        text = path.read_bytes() if path.suffix.lower() == ".xml" and path.is_file() else b""
        if b"<annotations" in text[:HEAD]:
            images = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
            subsets = Counter(subset.decode(errors="replace") for subset in SUBSET.findall(text))
            parts = dict.fromkeys(name for subset in subsets if (name := split_name(subset)))
            note = _unused_note(path, {subset: count for subset, count in subsets.items() if not split_name(subset)})
            return {name: LabelFiles("cvat", images, path, name, note) for name in parts} or {
                "train": LabelFiles("cvat", images, path)
            }
    return {}


def _unused_note(path: Path, others: dict[str, int]) -> str:
    """Of the images by subset that are in no split, where another subset is one."""
    names = ", ".join(f"{subset or 'none'} ({count})" for subset, count in others.items())
    what = f"{sum(others.values())} images are of no split: those of the subsets {names}"
    return f"{path}: {what}. Name their subset Train, Validation or Test in CVAT to use them" if others else ""


class CvatReader(Reader):
    """Reads the images of one part: of all subsets whose names mean it."""

    @cached_property
    def root(self) -> Element:
        path = self.files.annotations
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, UnicodeError, ValueError, OSError) as error:
            line = getattr(error, "position", (1, 0))[0]
            raise UserError(f"{path} line {line} is not XML: {error}") from None
        if root.tag != "annotations" or root.find("track") is not None:
            raise UserError(f"{path} is not in the form of CVAT for images 1.1; export it again in that format")
        return root

    @cached_property
    def classes(self) -> dict[int, str] | None:
        """The labels of the task or project, numbered from 1; None if the XML has none."""
        names = [name.text.strip() for name in self.root.iterfind("meta//labels/label/name") if name.text]
        return dict(enumerate(dict.fromkeys(names), start=1)) or None

    def items(self) -> list[Element]:
        part = self.files.part
        found = [each for each in self.root.iterfind("image") if part in (None, split_name(each.get("subset") or ""))]
        return sorted(found, key=lambda each: each.get("name") or "")

    def read(self, item: Element) -> LabelledImage:
        path, name = self.files.annotations, item.get("name")
        if not name:
            raise UserError(f"{path} has an image without a name (id {item.get('id')})")
        place = f"{path} {name}"
        texts = [item.get(key) or "" for key in ("height", "width")]
        height, width = (int(text) if text.isdecimal() and len(text) < 9 else text for text in texts)
        image = LabelledImage(self._file_name(name, item.get("subset")), checked_size(height, width, place))
        groups: dict[tuple[str, str], LabelledObject] = {}
        for number, shape in enumerate(item, start=1):
            where = f"{place} {shape.tag} {number}"
            if shape.tag == "tag" or shape.tag in NO_AREA:
                image.leave_out(f"{shape.tag}: no area", where)
                continue
            label = (shape.get("label") or "").strip()
            if not label or (self.classes is not None and label not in self.classes.values()):
                raise UserError(f"{where} has label {label!r}, which is none of the labels in <meta>; add it there")
            try:
                found = _object(shape, label, image.size, where)
            except (ValueError, OverflowError) as error:
                image.leave_out(_reason(error, shape.tag), where)
                continue
            group = shape.get("group_id", "0")
            add_shape(image, found, None if group in ("", "0") or found.segmentation is None else group, groups)
        return image

    def _file_name(self, name: str, subset: str | None) -> str:
        """In a project, pictures of a subset may be in a folder of its name."""
        inside = f"{subset}/{name}"
        return inside if subset and is_file(self.files.images / inside) else name


def _reason(error: Exception, tag: str) -> str:
    text = str(error)
    if "convert" in text or "literal" in text:  # Python's words for what is no number
        text = "numbers that cannot be read"
    return text if text.startswith(tag) else f"{tag}: {text}"


def _object(shape: Element, label: str, size: Size, place: str) -> LabelledObject:
    """Raises ValueError with the reason where a shape is broken."""
    if shape.tag == "mask":
        return LabelledObject(label, _mask(shape, size), place=place)
    if shape.tag == "box":
        x0, y0, x1, y1 = (_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        if degrees := float(shape.get("rotation") or 0):
            middle = np.array([x0 + x1, y0 + y1]) / 2
            corners = turned(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) - middle, degrees) + middle
            (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return LabelledObject(label, box=[x0, y0, x1 - x0, y1 - y0], place=place)
    if shape.tag == "ellipse":
        x, y, rx, ry = (_number(shape, key) for key in ("cx", "cy", "rx", "ry"))
        polygon = ellipse((x, y), (rx, ry), float(shape.get("rotation") or 0)).ravel().tolist()
    elif shape.tag == "polygon":
        polygon = [float(value) for point in (shape.get("points") or "").split(";") for value in point.split(",")]
    else:
        raise ValueError("no shape of CVAT for images 1.1")
    if fault := polygon_fault(polygon, size):
        raise ValueError(fault)
    return LabelledObject(label, [polygon], place=place)


def _number(shape: Element, key: str) -> float:
    value = float(shape.get(key) or "nan")
    if not np.isfinite(value):
        raise ValueError(f"{key} is missing or not a number")
    return value


def _mask(shape: Element, size: Size) -> dict[str, Any]:
    left, top, width, height = (int(_number(shape, key)) for key in ("left", "top", "width", "height"))
    runs = np.array([int(text) for text in (shape.get("rle") or "").split(",")], dtype=np.int64)
    inside = 0 < width <= size[1] and 0 < height <= size[0]
    if not inside or runs.min() < 0 or runs.max() > width * height or int(runs.sum()) != width * height:
        raise ValueError("run lengths that do not fill their box")
    bitmap = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(height, width)
    return run_lengths(bitmap, left, top, size)


def write(folder: Path, data: DataSet, *, tolerance: float) -> None:
    """annotations.xml and images/; masks with holes, or without tolerance, as bitmaps."""
    several = len(data.parts) > 1
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>",
             f"<meta>{_meta(data, several)}</meta>"]  # fmt: skip
    number = 0
    for part, images in data.parts.items():
        for image, _ in data.copied(images, folder / "images" / (part if several else "")):
            height, width = image.size
            subset = f" subset={quoteattr(part)}" if several else ""
            name = f"name={quoteattr(image.file_name)}{subset}"
            lines.append(f'<image id="{number}" {name} width="{width}" height="{height}">')
            for group, each in enumerate(image.objects, start=1):
                lines += _shapes(each, image.size, tolerance, group)
            lines.append("</image>")
            number += 1
    write_lines(folder / "annotations.xml", [*lines, "</annotations>"])


def _meta(data: DataSet, several: bool) -> str:
    """The labels of a task, or of a project with its subsets: CVAT and Datumaro look for these in different places."""
    labels = "".join(f"<label><name>{escape(name)}</name><attributes/></label>" for name in data.names.values())
    if not several:
        return f"<task><labels>{labels}</labels></task>"
    tasks = "".join(f"<task><subset>{escape(part)}</subset></task>" for part in data.parts)
    subsets = escape("\n".join(data.parts))
    return f"<project><tasks>{tasks}</tasks><labels>{labels}</labels><subsets>{subsets}</subsets></project>"


def _shapes(each: LabelledObject, size: Size, tolerance: float, group: int) -> Iterator[str]:
    """The elements of one object; several parts get a group of their own."""
    start = f'label={quoteattr(each.name)} source="{"manual" if each.score is None else "auto"}" occluded="0"'
    if each.segmentation is None:
        assert each.box is not None
        x, y, w, h = each.box
        corners = f'xtl="{x:.6f}" ytl="{y:.6f}" xbr="{x + w:.6f}" ybr="{y + h:.6f}"'
        yield f'<box {start} {corners} z_order="0"></box>'
        return
    regions = object_regions(each, size, tolerance)
    if needs_bitmap(each, regions, tolerance):
        yield f'<mask {start} {_rle(filled_box(each, size))} z_order="0"></mask>'
        return
    grouped = f' group_id="{group}"' if len(regions) > 1 else ""
    for region in regions:
        points = ";".join(f"{round(x, 6)},{round(y, 6)}" for x, y in region[0].tolist())
        yield f'<polygon {start} points="{points}" z_order="0"{grouped}></polygon>'


def _rle(crop: Crop) -> str:
    left, top, bitmap = crop
    values = np.concatenate([[0], bitmap.ravel() > 0, [2]])  # the last run ends, too
    runs = np.diff(np.flatnonzero(np.diff(values)), prepend=0)
    height, width = bitmap.shape
    text = ", ".join(map(str, runs.tolist()))
    return f'rle="{text}" left="{left}" top="{top}" width="{width}" height="{height}"'
