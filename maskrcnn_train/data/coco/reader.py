"""Reads and checks a COCO JSON: a fault of the file ends in one line, faults of single annotations are counted.

This module never imports torch: a wrong file must be reported at once.
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

import numpy as np

from maskrcnn_train.data.coco import masks
from maskrcnn_train.data.coco.annotations import check_annotations, packed_texts
from maskrcnn_train.data.coco.entries import Entries, Faults, Problem, number_problem, shown
from maskrcnn_train.data.coco.index import AnnotationIndex, Category, cache_folder, open_saved, save_index
from maskrcnn_train.data.coco.json_file import BLOCK_SIZE, NotInBlocks, in_blocks, parse_json, read_text
from maskrcnn_train.data.coco.raw_annotations import NO_ID, RawAnnotations, join, read_items
from maskrcnn_train.data.coco.skipped import SkippedTable
from maskrcnn_train.data.paths import require_file
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Flags, Ints

MAX_SIDE = 2**20  # of an image, pixels
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def open_index(path: Path, faults: Faults | None = None) -> AnnotationIndex:
    """The index of a COCO JSON, from the cache while the file is unchanged, else read, checked and cached.

    Raises UserError with one line for a fault of the file. faults: as in `read_coco`; a file with faults is not cached.
    """
    require_file(path, "give the COCO JSON of the annotations")
    folder = cache_folder(path)
    if (saved := open_saved(folder)) is not None:
        return saved
    index = read_coco(path, faults=faults)
    return index if faults else save_index(index, folder)


def read_coco(
    path: Path, content: dict[str, Any] | None = None, *, faults: Faults | None = None, block_size: int = BLOCK_SIZE
) -> AnnotationIndex:
    """Read and check one COCO JSON. Raises UserError with one line when it is not one.

    content: what `parse_json` gave, if it was called before. faults: receives the faults of entries, which are left
    out; without it the first fault is raised as UserError. block_size: bytes of annotations parsed at once; it
    limits the memory and changes no result.
    """
    found = Faults(path.name) if faults is None else faults
    content, raw = _read_file(path, block_size, found) if content is None else (content, _whole(content, found))
    images, categories = _list(content, "images", found), _list(content, "categories", found)
    del content
    index = build_index(str(path), images, categories, raw, found, SkippedTable())
    if faults is None and found:
        raise UserError(found.in_order[0].message)
    return index


def build_index(
    source: str,
    image_items: list[Any],
    category_items: list[Any],
    raw: RawAnnotations,
    found: Faults,
    skipped: SkippedTable,
    places: Sequence[str] | None = None,
) -> AnnotationIndex:
    """The index of images, categories and annotations in COCO's form, whatever files they were read from.

    found: receives the faults of entries; skipped: what is left out or repaired. places: where each annotation stands,
    if not in a JSON.
    """
    images, categories = Entries("image", image_items, found), Entries("category", category_items, found)
    images.check(_image_problem)
    categories.check(_category_problem)
    image_ids, category_ids = images.unique_ids(), categories.unique_ids()
    names, name_offsets = packed_texts(item["file_name"] for item in images.items)
    sizes = np.stack([images.column("height"), images.column("width")], axis=1)
    images.items = []
    sound = np.ones(len(raw), dtype=bool)
    _drop_unknown(raw, raw.image_ids, image_ids, images, sound)
    _drop_unknown(raw, raw.category_ids, category_ids, categories, sound)
    columns = check_annotations(raw, image_ids, sizes, sound, skipped, places)
    return AnnotationIndex(
        sources=[Path(source)],
        categories=[_category(item) for item in categories.items],
        skipped=skipped,
        image_ids=image_ids,
        image_sizes=sizes,
        names=names,
        name_offsets=name_offsets,
        first=np.searchsorted(columns["image_rows"], np.arange(len(image_ids) + 1)),
        folder=None,
        **columns,
    )


def _read_file(path: Path, block_size: int, faults: Faults) -> tuple[dict[str, Any], RawAnnotations]:
    """The JSON, and its annotations as columns."""
    text = read_text(path)
    if len(text) > block_size:
        before = copy.deepcopy(dict(faults))  # of other files
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
            faults.update(before)
    content = parse_json(path)
    return content, _whole(content, faults)


def _whole(content: dict[str, Any], faults: Faults) -> RawAnnotations:
    return read_items(_list(content, "annotations", faults), faults)


def _list(content: dict[str, Any], key: str, faults: Faults) -> list[Any]:
    items = content[key]
    if not isinstance(items, list):
        raise UserError(f"`{key}` in {faults.file} is a {type(items).__name__}; it should be a list")
    return items


def is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a text that files and pages can hold: no half surrogate pair, no character that XML forbids."""
    return isinstance(value, str) and bool(value.strip()) and not _UNWRITABLE.search(value)


def _category_problem(item: dict[str, Any]) -> Problem:
    if problem := number_problem(item, "id"):
        return "category-id", problem
    name = item.get("name")
    return None if is_text(name) else ("category-name", f"has name {shown(name)}; it should be a text")


def _category(item: dict[str, Any]) -> Category:
    """A checked category. Line breaks leave its names: they would break every message and table."""
    parent = item.get("supercategory")
    parent = " ".join(parent.split()) if is_text(parent) else None
    return Category(int(item["id"]), " ".join(item["name"].split()), parent)


def _image_problem(item: dict[str, Any]) -> Problem:
    if problem := number_problem(item, "id"):
        return "image-id", problem
    name = item.get("file_name")
    if not is_text(name) or min(name) < " ":  # control characters cannot name a file
        return "image-file-name", f"has file_name {shown(name)}; it should be a path"
    if leaves_folder(name):
        outside = "outside the folder of images; use a path relative to that folder"
        return "image-outside", f"has file_name {shown(name)}, {outside}"
    for key in ("height", "width"):
        if problem := number_problem(item, key):
            return "image-size", problem
    height, width = int(item["height"]), int(item["width"])
    if 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width < masks.MAX_PIXELS:
        return None
    return "image-size", f"has size {width} x {height}; width and height must be pixels"


def leaves_folder(name: str) -> bool:
    """Whether a file name points outside the folder that it is relative to."""
    if name[0] not in "/\\" and ".." not in name and ":" not in name:
        return False
    paths = PurePosixPath(name), PureWindowsPath(name)
    return any(path.is_absolute() or bool(path.anchor) or ".." in path.parts for path in paths)


def _drop_unknown(raw: RawAnnotations, values: Ints, known: Ints, owners: Entries, sound: Flags) -> None:
    """Mark annotations whose value is the id of no image, or of no category, as not sound, in place.

    Those whose image or category was left out for a fault of its own are marked but not noted.
    """
    unknown = ~np.isin(values, known) & sound
    if not unknown.any():
        return
    sound &= ~unknown
    noun, faults = owners.noun, owners.faults
    rows = np.flatnonzero(unknown & ~np.isin(values, list(owners.lost))).tolist()
    others = f" ({len(rows)} annotations have this fault)" if len(rows) > 1 else ""
    are = f"{'categories' if noun == 'category' else 'images'} are {_id_range(known)}{others}"
    hint = f"Correct it, or add the {noun} to {faults.file}"
    for row in rows:
        name = f"number {raw.numbers[row]}" if raw.ids[row] == NO_ID else int(raw.ids[row])
        faults.add(f"annotation-{noun}-unknown", "annotation", name, f"has {noun}_id {values[row]}; {are}. {hint}")


def _id_range(ids: Ints) -> str:
    values = sorted(ids.tolist())
    if not values:
        return "none"
    if len(values) > 2 and values[-1] - values[0] == len(set(values)) - 1:
        return f"{values[0]}..{values[-1]}"
    more = f", ... ({len(values)} in all)" if len(values) > 10 else ""
    return ", ".join(map(str, values[:10])) + more
