"""Reads and checks a COCO JSON: a fault of the file ends in one line, faults of single annotations are counted.

This module never imports torch: a wrong file must be reported at once.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.data.coco import masks
from maskrcnn_train.data.coco.annotations import AnnotationColumns, check_annotations
from maskrcnn_train.data.coco.entries import Entries, Faults, shown
from maskrcnn_train.data.coco.index import (
    AnnotationIndex,
    BrokenIndex,
    Category,
    SkippedTable,
    cache_folder,
    load_index,
    save_index,
)
from maskrcnn_train.data.coco.json_file import BLOCK_SIZE, NotInBlocks, in_blocks, parse_json, read_text
from maskrcnn_train.data.coco.raw_annotations import NO_ID, RawAnnotations, join, read_items
from maskrcnn_train.data.paths import require_file
from maskrcnn_train.settings.errors import UserError

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_SIDE = 2**20  # of an image, pixels


def open_index(path: Path, faults: Faults | None = None) -> AnnotationIndex:
    """The index of a COCO JSON, from the cache while the file is unchanged, else read, checked and cached.

    Raises UserError with one line for a fault of the file. faults: as in `read_coco`; a file with faults is not cached.
    """
    require_file(path, "give the COCO JSON of the annotations")
    folder = cache_folder(path)
    if folder.is_dir():
        try:
            return load_index(folder)
        except BrokenIndex as error:
            logger.warning("%s: the cached annotations are damaged (%s); rebuilding them", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    index = read_coco(path, faults=faults)
    return index if faults else save_index(index, folder)


def read_coco(
    path: Path, content: dict[str, Any] | None = None, *, faults: Faults | None = None, block_size: int = BLOCK_SIZE
) -> AnnotationIndex:
    """Read and check one COCO JSON. Raises UserError with one line for a file that is none.

    content: what `parse_json` gave, if it was called before. faults: receives the faults of entries, which are left
    out; without it the first fault is raised as UserError. block_size: bytes of annotations parsed at once; it
    limits the memory and changes no result.
    """
    found = Faults(path.name) if faults is None else faults
    content, raw = _read_file(path, block_size, found) if content is None else (content, _whole(content, found))
    images = Entries("image", _list(content, "images", found.file), found)
    category_entries = Entries("category", _list(content, "categories", found.file), found)
    image_ids, names, sizes = _read_images(images)
    categories = _read_categories(category_entries)
    del content, images.items
    skipped = SkippedTable()
    columns = _check(raw, images, image_ids, sizes, category_entries, skipped)
    if faults is None and len(found):
        raise UserError(next(iter(found)).message)
    return _assemble(str(path), categories, skipped, image_ids, sizes, names, columns)


# ---------------------------------------------------------------- the file


def _read_file(path: Path, block_size: int, faults: Faults) -> tuple[dict[str, Any], RawAnnotations]:
    """The JSON, and its annotations as columns."""
    text = read_text(path)
    if len(text) > block_size:
        try:
            content, blocks = in_blocks(text, block_size)
            columns: list[RawAnnotations] = []
            number = 0
            for items in blocks:
                columns.append(read_items(items, faults, number))
                number += len(items)
            del text
            return content, join(columns)
        except NotInBlocks:
            faults.clear()  # then whole, which takes more memory
    content = parse_json(path)
    return content, _whole(content, faults)


def _whole(content: dict[str, Any], faults: Faults) -> RawAnnotations:
    return read_items(_list(content, "annotations", faults.file), faults)


def _list(content: dict[str, Any], key: str, file: str) -> list[Any]:
    items = content[key]
    if not isinstance(items, list):
        raise UserError(f"`{key}` in {file} is a {type(items).__name__}; it should be a list")
    return items


def is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a text that can be written to a file; half a surrogate pair cannot."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _read_categories(entries: Entries) -> list[Category]:
    entries.ids()
    names = [item.get("name") for item in entries.items]
    entries.drop("category-name", [None if is_text(n) else f"has name {shown(n)}; it should be a text" for n in names])
    categories = []
    for number, item in zip(entries.ids().tolist(), entries.items, strict=True):
        parent = item.get("supercategory")
        # a line break in a name would break every message and table
        parent = " ".join(parent.split()) if is_text(parent) else None
        categories.append(Category(number, " ".join(item["name"].split()), parent))
    return categories


# ---------------------------------------------------------------- images


def _read_images(entries: Entries) -> tuple[Ints, list[str], Ints]:
    """Ids int64 [M], file names and sizes (height, width) int64 [M, 2] of the sound images."""
    entries.ids()
    names = [item.get("file_name") for item in entries.items]
    entries.drop(
        "image-file-name", [None if is_path(n) else f"has file_name {shown(n)}; it should be a path" for n in names]
    )
    names = [item["file_name"] for item in entries.items]
    outside = "outside the folder of images; use a path relative to that folder"
    entries.drop("image-outside", [f"has file_name {shown(n)}, {outside}" if leaves_folder(n) else None for n in names])
    sizes = np.stack(entries.whole_numbers({"height": "image-size", "width": "image-size"}), axis=1)
    wrong = (sizes < 1).any(axis=1) | (sizes > MAX_SIDE).any(axis=1) | (sizes.prod(axis=1) >= masks.MAX_PIXELS)
    if wrong.any():
        problems = [
            f"has size {width} x {height}; width and height must be pixels" if fault else None
            for (height, width), fault in zip(sizes.tolist(), wrong.tolist(), strict=True)
        ]
        entries.drop("image-size", problems)
    return entries.ids(), [item["file_name"] for item in entries.items], sizes[~wrong]


def is_path(name: Any) -> TypeGuard[str]:
    """Whether it is a text that can name a file: without control characters."""
    return is_text(name) and min(name) >= " "


def leaves_folder(name: str) -> bool:
    """Whether a file name points outside the folder that it is relative to."""
    if name[0] not in "/\\" and ".." not in name and ":" not in name:
        return False
    paths = PurePosixPath(name), PureWindowsPath(name)
    return any(path.is_absolute() or bool(path.anchor) or ".." in path.parts for path in paths)


# ---------------------------------------------------------------- annotations


def _check(
    raw: RawAnnotations, images: Entries, image_ids: Ints, sizes: Ints, categories: Entries, skipped: SkippedTable
) -> AnnotationColumns:
    """Check the annotations; those of images and categories that were left out are left out without a word."""
    sound = np.ones(len(raw), dtype=bool)
    _drop_unknown(raw, raw.image_ids, image_ids, images, sound)
    _drop_unknown(raw, raw.category_ids, categories.ids(), categories, sound)
    ids = raw.ids.copy()
    ids[sound] = _annotation_ids(raw.ids[sound], raw.numbers[sound], skipped)
    by_id, image_rows = np.argsort(image_ids), np.full(len(raw), -1)
    image_rows[sound] = by_id[np.searchsorted(image_ids, raw.image_ids[sound], sorter=by_id)]
    return check_annotations(raw, ids, image_rows, sizes, sound, skipped)


def _drop_unknown(raw: RawAnnotations, values: Ints, known: Ints, owners: Entries, sound: Bools) -> None:
    """Mark annotations whose value is the id of no image, or of no category, as not sound, in place."""
    unknown = ~np.isin(values, known) & sound
    if not unknown.any():
        return
    sound &= ~unknown
    rows = np.flatnonzero(unknown & ~np.isin(values, list(owners.lost))).tolist()
    if rows:
        noun, file = owners.noun, owners.faults.file
        names = [f"number {raw.numbers[row]}" if raw.ids[row] == NO_ID else int(raw.ids[row]) for row in rows]
        are = {"image": "images are", "category": "categories are"}[noun]
        others = f" ({len(rows)} annotations have this fault)" if len(rows) > 1 else ""
        problem = (
            f"has {noun}_id {values[rows[0]]}; {are} {_id_range(known)}{others}. "
            f"Correct it, or add the {noun} to {file}"
        )
        owners.faults.add(f"annotation-{noun}-unknown", "annotation", names, problem)


def _annotation_ids(given: Ints, numbers: Ints, skipped: SkippedTable) -> Ints:
    """Unique ids of the annotations; missing, wrong and repeated ones get new ids above the largest.

    numbers: positions of the annotations in their file.
    """
    usable = given != NO_ID
    first = np.zeros(len(given), dtype=bool)
    first[np.unique(given, return_index=True)[1]] = True
    ids = given.copy()
    following = max(int(given.max(initial=0)), 0) + 1
    for row in np.flatnonzero(~usable | ~first).tolist():
        reason = "annotation id repeated" if usable[row] else "annotation id missing or not a whole number"
        was = f" (id {given[row]})" if usable[row] else ""
        example = f"annotation number {numbers[row]}{was} is now {following}"
        skipped.add(f"{reason}: numbered anew", following, example, dropped=False)
        ids[row], following = following, following + 1
    return ids


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
