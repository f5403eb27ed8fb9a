"""Reads and checks a COCO JSON: faults of the file stop with one line, faults of single objects are counted.

This module never imports torch: a wrong file must be reported at once.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

import numpy as np

from maskrcnn_train.data.coco import masks
from maskrcnn_train.data.coco.annotations import AnnotationColumns, check_annotations
from maskrcnn_train.data.coco.index import AnnotationIndex, Category, SkippedTable, cache_folder, load_index, save_index
from maskrcnn_train.data.coco.json_file import BLOCK_SIZE, NotInBlocks, in_blocks, parse_json, read_text
from maskrcnn_train.data.coco.raw_annotations import NO_ID, RawAnnotations, join, read_items, shown, whole_numbers
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Ints

logger = logging.getLogger(__name__)


MAX_SIDE = 2**20  # of an image, pixels


def open_index(path: Path) -> AnnotationIndex:
    """The index of a COCO JSON, from the cache while the file is unchanged, else read, checked and cached.

    Raises UserError with one line for a fault of the file.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; it should be the COCO JSON of the annotations")
    folder = cache_folder(path)
    if folder.is_dir():
        try:
            return load_index(folder)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s: the cached annotations cannot be read (%s); building them anew", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    return save_index(read_coco(path), folder)


def read_coco(path: Path, content: dict[str, Any] | None = None, *, block_size: int = BLOCK_SIZE) -> AnnotationIndex:
    """Read and check one COCO JSON. Raises UserError with one line naming the file and the item at fault.

    content: what `parse_json` gave, if it was called before. block_size: bytes of annotations that are parsed at
    once; it bounds the memory, and changes no result.
    """
    content, raw = _read_file(path, block_size) if content is None else (content, _whole(content, path.name))
    file = path.name
    images = _objects(content, "images", file)
    categories = _read_categories(_objects(content, "categories", file), file)
    image_ids = whole_numbers(images, "id", "image", file)
    _check_unique(image_ids, "image", file)
    names = _file_names(images, image_ids, file)
    sizes = _image_sizes(images, image_ids, file)
    del content, images
    skipped = SkippedTable()
    columns = _check(raw, image_ids, categories, sizes, file, skipped)
    return _assemble(str(path), categories, skipped, image_ids, sizes, names, columns)


# ---------------------------------------------------------------- the file


def _read_file(path: Path, block_size: int) -> tuple[dict[str, Any], RawAnnotations]:
    """The JSON, and its annotations as columns."""
    text = read_text(path)
    if len(text) > block_size:
        try:
            content, blocks = in_blocks(text, block_size)
            columns: list[RawAnnotations] = []
            for items in blocks:
                columns.append(read_items(items, path.name, sum(map(len, columns))))
            del text
            return content, join(columns)
        except NotInBlocks:
            pass  # then whole, which takes more memory
    content = parse_json(path)
    return content, _whole(content, path.name)


def _whole(content: dict[str, Any], file: str) -> RawAnnotations:
    return read_items(_objects(content, "annotations", file), file)


def _objects(content: dict[str, Any], key: str, file: str) -> list[dict[str, Any]]:
    items = content[key]
    if not isinstance(items, list):
        raise UserError(f"`{key}` in {file} is a {type(items).__name__}; it should be a list")
    for position, item in enumerate(items):
        if type(item) is not dict:
            raise UserError(f"`{key}` in {file}: entry {position} is a {type(item).__name__}; it should be an object")
    return items


def is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a text that can be written to a file; half a surrogate pair cannot."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _check_unique(ids: Ints, what: str, file: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{what} id {values[counts > 1][0]} occurs {counts[counts > 1][0]} times in {file}; "
            f"ids must be unique. Re-number the {what} entries"
        )


def _read_categories(items: list[dict[str, Any]], file: str) -> list[Category]:
    ids = whole_numbers(items, "id", "category", file)
    _check_unique(ids, "category", file)
    categories = []
    for number, item in zip(ids.tolist(), items, strict=True):
        name, parent = item.get("name"), item.get("supercategory")
        if not is_text(name):
            raise UserError(f"category {number} in {file} has name {shown(name)}; it should be a text")
        # a line break in a name would break every message and table
        parent = " ".join(parent.split()) if is_text(parent) else None
        categories.append(Category(number, " ".join(name.split()), parent))
    return categories


# ---------------------------------------------------------------- images


def _file_names(images: list[dict[str, Any]], ids: Ints, file: str) -> list[str]:
    names = []
    for number, item in zip(ids.tolist(), images, strict=True):
        name = item.get("file_name")
        if not is_path(name):
            raise UserError(f"image {number} in {file} has file_name {shown(name)}; it should be a path")
        if leaves_folder(name):
            raise UserError(
                f"image {number} in {file} has file_name {shown(name)}, outside the folder of images; "
                "use a path relative to that folder"
            )
        names.append(name)
    return names


def is_path(name: Any) -> TypeGuard[str]:
    """Whether it is a text that can name a file: without control characters."""
    return is_text(name) and min(name) >= " "


def leaves_folder(name: str) -> bool:
    """Whether a file name points outside the folder that it is relative to."""
    if name[0] not in "/\\" and ".." not in name and ":" not in name:
        return False
    paths = PurePosixPath(name), PureWindowsPath(name)
    return any(path.is_absolute() or bool(path.anchor) or ".." in path.parts for path in paths)


def _image_sizes(images: list[dict[str, Any]], ids: Ints, file: str) -> Ints:
    columns = [whole_numbers(images, key, "image", file) for key in ("height", "width")]
    sizes = np.stack(columns, axis=1) if images else np.zeros((0, 2), dtype=np.int64)
    wrong = (sizes < 1).any(axis=1) | (sizes > MAX_SIDE).any(axis=1) | (sizes.prod(axis=1) >= masks.MAX_PIXELS)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        height, width = sizes[row].tolist()
        raise UserError(f"image {ids[row]} in {file} has size {width} x {height}; width and height must be pixels")
    return sizes


# ---------------------------------------------------------------- annotations


def _check(
    raw: RawAnnotations, image_ids: Ints, categories: list[Category], sizes: Ints, file: str, skipped: SkippedTable
) -> AnnotationColumns:
    ids = _annotation_ids(raw.ids, skipped)
    known = np.array([category.id for category in categories], dtype=np.int64)
    _check_known(ids, raw.category_ids, known, f"in {file} has category_id", "categories are", "category", file)
    _check_known(ids, raw.image_ids, image_ids, f"in {file} has image_id", "images are", "image", file)
    by_id = np.argsort(image_ids)
    found = np.searchsorted(image_ids, raw.image_ids, sorter=by_id)
    return check_annotations(raw, ids, by_id[found] if len(ids) else found, sizes, skipped)


def _annotation_ids(given: Ints, skipped: SkippedTable) -> Ints:
    """Ids of the annotations; missing, wrong and repeated ones are numbered anew, after the largest."""
    usable = given != NO_ID
    first = np.zeros(len(given), dtype=bool)
    first[np.unique(given, return_index=True)[1]] = True
    ids = given.copy()
    following = max(int(given.max(initial=0)), 0) + 1
    for row in np.flatnonzero(~usable | ~first).tolist():
        reason = "annotation id repeated" if usable[row] else "annotation id missing or not a whole number"
        was = f" (id {given[row]})" if usable[row] else ""
        example = f"annotation number {row}{was} is now {following}"
        skipped.add(f"{reason}: numbered anew", following, example, dropped=False)
        ids[row], following = following, following + 1
    return ids


def _check_known(ids: Ints, values: Ints, known: Ints, has: str, are: str, what: str, file: str) -> None:
    unknown = ~np.isin(values, known)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        others = f" ({int(unknown.sum())} annotations have this fault)" if unknown.sum() > 1 else ""
        raise UserError(
            f"annotation {ids[row]} {has} {values[row]}; {are} {_id_range(known)}{others}. "
            f"Re-number it or add the {what} to {file}"
        )


def _id_range(ids: Ints) -> str:
    values = sorted(ids.tolist())
    if not values:
        return "none"
    if len(values) > 2 and values[-1] - values[0] == len(set(values)) - 1:
        return f"{values[0]}..{values[-1]}"
    return ", ".join(str(value) for value in values[:10]) + (
        f", ... ({len(values)} in all)" if len(values) > 10 else ""
    )


def _assemble(
    source: str,
    categories: list[Category],
    skipped: SkippedTable,
    image_ids: Ints,
    sizes: Ints,
    names: list[str],
    columns: AnnotationColumns,
) -> AnnotationIndex:
    encoded = [name.encode() for name in names]
    return AnnotationIndex(
        source=source,
        categories=categories,
        skipped=skipped,
        image_ids=image_ids,
        image_sizes=sizes,
        names=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, encoded)]),
        first=np.searchsorted(columns.image_rows, np.arange(len(image_ids) + 1)),
        annotation_ids=columns.ids,
        category_ids=columns.category_ids,
        image_rows=columns.image_rows,
        boxes=columns.boxes,
        written_boxes=columns.written_boxes,
        areas=columns.areas,
        crowd=columns.crowd,
        kinds=columns.kinds,
        extents=columns.extents,
        part_offsets=columns.part_offsets,
        point_offsets=columns.point_offsets,
        coordinates=columns.coordinates,
        run_offsets=columns.run_offsets,
        runs=columns.runs,
    )
