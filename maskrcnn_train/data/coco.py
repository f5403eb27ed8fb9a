"""Reads and checks a COCO JSON: faults of the file stop with one line, faults of single objects are counted.

This module never imports torch: a wrong file must be reported at once.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from maskrcnn_train.data.annotations import AnnotationColumns, read_annotations
from maskrcnn_train.data.index import AnnotationIndex, Category, SkippedTable, cache_folder, load_index, save_index

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]

MAX_SIDE = 2**20  # of an image, pixels


def open_index(path: Path) -> AnnotationIndex:
    """The index of a COCO JSON, from the cache while the file is unchanged, else read, checked and cached.

    Raises ValueError with one line for a fault of the file.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; it should be the COCO JSON of the annotations")
    folder = cache_folder(path)
    if folder.is_dir():
        try:
            return load_index(folder)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s: the cached annotations cannot be read (%s); building them anew", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    return save_index(read_coco(path), folder)


def read_coco(path: Path, content: dict[str, Any] | None = None) -> AnnotationIndex:
    """Read and check one COCO JSON. Raises ValueError with one line naming the file and the item at fault.

    content: what `parse_json` gave, if it was called before.
    """
    content = parse_json(path) if content is None else content
    file = path.name
    images = _objects(content, "images", file)
    categories = _read_categories(_objects(content, "categories", file), file)
    image_ids = _whole_numbers(images, "id", "image", file)
    _check_unique(image_ids, "image", file)
    names = _file_names(images, image_ids, file)
    sizes = _image_sizes(images, image_ids, file)
    skipped = SkippedTable()
    annotations = _objects(content, "annotations", file)
    columns = _read_annotations(annotations, image_ids, categories, sizes, file, skipped)
    return _assemble(str(path), categories, skipped, image_ids, sizes, names, columns)


# ---------------------------------------------------------------- the file


def parse_json(path: Path, *, exact: bool = False) -> dict[str, Any]:
    """The content of a COCO JSON. Raises ValueError with one line when it is none.

    exact: with whole numbers beyond 64 bits as they are, which takes a few times longer.
    """
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        # Python's own json writes NaN, which is no JSON: such files must be read to say which object is wrong
        content = json.loads(text) if exact or b"NaN" in text or b"Infinity" in text else orjson.loads(text)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. Export the annotations as COCO JSON again") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a COCO object with images, annotations and categories"
        )
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise ValueError(f"{path} has no `{key}`; a COCO JSON has images, annotations and categories")
    return content


def _objects(content: dict[str, Any], key: str, file: str) -> list[dict[str, Any]]:
    items = content[key]
    if not isinstance(items, list):
        raise ValueError(f"`{key}` in {file} is a {type(items).__name__}; it should be a list")
    for position, item in enumerate(items):
        if type(item) is not dict:
            raise ValueError(f"`{key}` in {file}: entry {position} is a {type(item).__name__}; it should be an object")
    return items


def _whole_numbers(items: list[dict[str, Any]], key: str, what: str, file: str) -> Ints:
    """Column `key` as int64. Raises ValueError for the first item where it is missing or no whole number."""
    values = [item.get(key) for item in items]
    for position, value in enumerate(values):
        if type(value) is not int and not (type(value) is float and value.is_integer()):
            name = f"{what} {items[position]['id']}" if "id" in items[position] else f"{what} number {position}"
            raise ValueError(f"{name} in {file} has {key} {_shown(value)}; it should be a whole number")
        if abs(value) >= 2**63:
            raise ValueError(f"{what} number {position} in {file} has {key} {_shown(value)}; it is too large")
    return np.array(values, dtype=np.int64)


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_unique(ids: Ints, what: str, file: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{what} id {values[counts > 1][0]} occurs {counts[counts > 1][0]} times in {file}; "
            f"ids must be unique. Re-number the {what} entries"
        )


def _read_categories(items: list[dict[str, Any]], file: str) -> list[Category]:
    ids = _whole_numbers(items, "id", "category", file)
    _check_unique(ids, "category", file)
    categories = []
    for number, item in zip(ids.tolist(), items, strict=True):
        name, parent = item.get("name"), item.get("supercategory")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"category {number} in {file} has name {_shown(name)}; it should be a text")
        categories.append(Category(number, name.strip(), parent if isinstance(parent, str) else None))
    return categories


# ---------------------------------------------------------------- images


def _file_names(images: list[dict[str, Any]], ids: Ints, file: str) -> list[str]:
    names = []
    for number, item in zip(ids.tolist(), images, strict=True):
        name = item.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"image {number} in {file} has file_name {_shown(name)}; it should be a path")
        if leaves_folder(name):
            raise ValueError(
                f"image {number} in {file} has file_name {_shown(name)}, outside the folder of images; "
                "use a path relative to that folder"
            )
        names.append(name)
    return names


def leaves_folder(name: str) -> bool:
    """Whether a file name points outside the folder that it is relative to."""
    if name[0] not in "/\\" and ".." not in name and ":" not in name:
        return False
    paths = PurePosixPath(name), PureWindowsPath(name)
    return any(path.is_absolute() or bool(path.anchor) or ".." in path.parts for path in paths)


def _image_sizes(images: list[dict[str, Any]], ids: Ints, file: str) -> Ints:
    columns = [_whole_numbers(images, key, "image", file) for key in ("height", "width")]
    sizes = np.stack(columns, axis=1) if images else np.zeros((0, 2), dtype=np.int64)
    wrong = (sizes < 1).any(axis=1) | (sizes > MAX_SIDE).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        height, width = sizes[row].tolist()
        raise ValueError(f"image {ids[row]} in {file} has size {width} x {height}; width and height must be pixels")
    return sizes


# ---------------------------------------------------------------- annotations


def _read_annotations(
    items: list[dict[str, Any]],
    image_ids: Ints,
    categories: list[Category],
    sizes: Ints,
    file: str,
    skipped: SkippedTable,
) -> AnnotationColumns:
    ids = _annotation_ids(items, skipped)
    own_images = _whole_numbers(items, "image_id", "annotation", file)
    category_ids = _whole_numbers(items, "category_id", "annotation", file)
    known = np.array([category.id for category in categories], dtype=np.int64)
    _check_known(ids, category_ids, known, f"in {file} has category_id", "categories are", "category", file)
    _check_known(ids, own_images, image_ids, f"in {file} has image_id", "images are", "image", file)
    by_id = np.argsort(image_ids)
    image_rows = by_id[np.searchsorted(image_ids, own_images, sorter=by_id)] if len(ids) else own_images
    order = np.argsort(image_rows, kind="stable")
    ordered = [items[row] for row in order.tolist()]
    return read_annotations(ordered, ids[order], image_rows[order], category_ids[order], sizes, skipped)


def _annotation_ids(items: list[dict[str, Any]], skipped: SkippedTable) -> Ints:
    """Ids of the annotations; missing, wrong and repeated ones are numbered anew, after the largest."""
    values = [item.get("id") for item in items]
    usable = [value if type(value) is int and abs(value) < 2**62 else None for value in values]
    following = max((value for value in usable if value is not None), default=0) + 1
    seen: set[int] = set()
    for row, value in enumerate(usable):
        if value is None or value in seen:
            reason = "annotation id missing or not a whole number" if value is None else "annotation id repeated"
            example = f"annotation number {row} (id {_shown(values[row])}) is now {following}"
            skipped.add(f"{reason}: numbered anew", following, example, dropped=False)
            value, following = following, following + 1
            usable[row] = value
        seen.add(value)
    return np.array(usable, dtype=np.int64)


def _check_known(ids: Ints, values: Ints, known: Ints, has: str, are: str, what: str, file: str) -> None:
    unknown = ~np.isin(values, known)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        others = f" ({int(unknown.sum())} annotations have this fault)" if unknown.sum() > 1 else ""
        raise ValueError(
            f"annotation {ids[row]} {has} {values[row]}; {are} {_id_range(known)}{others}. "
            f"Re-number it or add the {what} to {file}"
        )


def _id_range(ids: Ints) -> str:
    values = sorted(ids.tolist())
    if not values:
        return "none"
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
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
    encoded = [name.encode("utf-8", errors="surrogatepass") for name in names]
    found = columns.segmentations
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
        areas=columns.areas,
        crowd=columns.crowd,
        kinds=found.kinds,
        extents=found.extents,
        part_offsets=found.part_offsets,
        point_offsets=found.point_offsets,
        coordinates=found.coordinates,
        run_offsets=found.run_offsets,
        runs=found.runs,
    )
