"""Several indices as one: the images of several files or folders as one part of a data set."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.data.coco.annotations import packed_places, packed_texts
from maskrcnn_train.data.coco.index import AnnotationIndex, Category, open_saved, save_index, state_folder
from maskrcnn_train.data.coco.skipped import SkippedTable
from maskrcnn_train.data.paths import common_folder
from maskrcnn_train.structures.arrays import Ints

PLAIN = ("image_sizes", "boxes", "written_boxes", "areas", "crowd", "kinds", "extents", "coordinates", "runs")


def join_indices(indices: Sequence[AnnotationIndex], folders: Sequence[Path]) -> AnnotationIndex:
    """One index of all images, whose file names are relative to the common folder, cached like each of them.

    folders: of the images of each; file names become relative to the folder that holds all of them. Ids that occur
    twice are replaced by new ones above the largest. Categories are matched by name: the first file's ids stay.
    """
    state = " ".join(str(index.folder) for index in indices)
    folder = state_folder(" ".join(index.source for index in indices) + " ".join(map(str, folders)), state)
    saved = None if any(index.folder is None for index in indices) else open_saved(folder)
    if saved is not None:
        return saved
    joined = _join(indices, [Path(os.path.relpath(each.absolute(), common_folder(folders))) for each in folders])
    return joined if any(index.folder is None for index in indices) else save_index(joined, folder)


def _join(indices: Sequence[AnnotationIndex], prefixes: Sequence[Path]) -> AnnotationIndex:
    columns: dict[str, NDArray[Any]] = {name: np.concatenate([getattr(i, name) for i in indices]) for name in PLAIN}
    for name in ("part_offsets", "point_offsets", "run_offsets", "first"):
        columns[name] = _joined_offsets([getattr(index, name) for index in indices])
    rows = np.cumsum([0, *(index.num_images for index in indices)])
    columns["image_rows"] = np.concatenate([i.image_rows + start for i, start in zip(indices, rows, strict=False)])
    columns["image_ids"] = _unique(np.concatenate([index.image_ids for index in indices]))
    columns["annotation_ids"] = _unique(np.concatenate([index.annotation_ids for index in indices]))
    names = [(prefix / i.file_name(r)).as_posix() for i, prefix in zip(indices, prefixes, strict=True)
             for r in range(i.num_images)]  # fmt: skip
    columns["names"], columns["name_offsets"] = packed_texts(names)
    places = (_place(index, row) for index in indices for row in range(index.num_annotations))
    columns |= packed_places(None if all(index.from_json for index in indices) else places)
    categories, columns["category_ids"] = _join_categories(indices)
    sources = [each for index in indices for each in index.sources]
    return AnnotationIndex(sources, categories, _join_skipped(indices), folder=None, **columns)


def _place(index: AnnotationIndex, row: int) -> str:
    return f"{index.short_name} annotation {index.item(row)}" if index.from_json else str(index.item(row))


def _joined_offsets(offsets: Sequence[Ints]) -> Ints:
    """Offsets into columns that are joined too; the last of each is the length of its column."""
    starts = np.cumsum([0, *(each[-1] for each in offsets)])
    return np.concatenate([*(each[:-1] + start for each, start in zip(offsets, starts, strict=False)), starts[-1:]])


def _unique(ids: Ints) -> Ints:
    """The ids, of equal ones the first; the others become numbers above the largest."""
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    found = ids.copy()
    found[~first] = max(int(ids.max(initial=0)), 0) + 1 + np.arange(int((~first).sum()))
    return found


def _join_categories(indices: Sequence[AnnotationIndex]) -> tuple[list[Category], Ints]:
    """Matched by name; of several with one name, as Roboflow's super-category and class, by id, else that in use."""
    categories, seen = list(indices[0].categories), indices[0].used_categories
    columns = [np.asarray(indices[0].category_ids)]
    for index in indices[1:]:
        by_use = sorted(categories, key=lambda each: each.id not in seen)
        known, taken = {each.name: each.id for each in reversed(by_use)}, {each.id: each.name for each in categories}
        moved = {}
        for each in index.categories:
            if each.name not in known:
                number = each.id if each.id not in taken else max(*taken, 0) + 1
                known[each.name], taken[number] = number, each.name
                categories.append(replace(each, id=number))
            moved[each.id] = each.id if taken.get(each.id) == each.name else known[each.name]
        used, inverse = np.unique(index.category_ids, return_inverse=True)
        columns.append(np.array([moved[number] for number in used.tolist()], dtype=np.int64)[inverse])
        seen = seen | {*columns[-1].tolist()}
    return categories, np.concatenate(columns)


def _join_skipped(indices: Sequence[AnnotationIndex]) -> SkippedTable:
    """All rows; items are named with their file, because ids are not unique any more."""
    joined = SkippedTable()
    for index in indices:
        for row in index.skipped:
            examples = iter(row.examples)
            for item in row.ids:
                name = f"{index.short_name} {item}" if isinstance(item, int) else item
                joined.add(row.reason, name, f"{index.short_name} {next(examples, name)}", dropped=row.dropped)
    return joined
