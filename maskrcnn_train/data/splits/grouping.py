"""Images that must stay in one split: by a field of the JSON, by file name, or because they look alike."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_train.data.pixels import RGB, PixelReader
from maskrcnn_train.data.scanning import find_similar, group_pairs, scan_images
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Ints

Items = Sequence[dict[str, Any]]


def group_by_field(images: Items, field: str) -> Ints:
    """Group of each image by the value of a field, `extra.name` being `name` in `extra`: int64 [M].

    1 and 1.0 are one value, the text "1" and true are others. An image without the field stays alone. Raises UserError
    if no image has it.
    """
    values = [_field(image, field.split(".")) for image in images]
    if all(value is None for value in values):
        known = ", ".join(sorted({key for image in images[:1000] for key in image}))
        raise UserError(f"group_by={field}: no image has this field; images have {known}")
    return _numbered([None if value is None else repr(_whole(value)) for value in values])


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _field(image: Any, path: list[str]) -> Any:
    for key in path:
        image = image.get(key) if isinstance(image, dict) else None
    return image


def group_by_pattern(images: Items, pattern: str) -> Ints:
    """Group of each image by what a regular expression finds in its file name: its first group, if it has one.

    An image without a match stays alone. Raises UserError if no image matches.
    """
    matches = [re.search(pattern, image["file_name"]) for image in images]
    if not any(matches):
        example = images[0]["file_name"] if images else ""
        raise UserError(f"group_pattern={pattern} matches no file name; the first is {example}")
    return _numbered([None if match is None else match[min(1, len(match.groups()))] for match in matches])


def _numbered(values: list[str | None]) -> Ints:
    """The row of the first equal value; None gets its own row."""
    first: dict[str, int] = {}
    rows = [row if value is None else first.setdefault(value, row) for row, value in enumerate(values)]
    return np.array(rows, dtype=np.int64)


def group_by_looks(
    images: Items,
    folder: Path,
    *,
    distance: int,
    workers: int | None,
    progress: Callable[[int, int], None],
    reader: PixelReader = RGB,
) -> tuple[Ints, list[str]]:
    """Group of each image, nearly equal pictures together: int64 [M]; and why some files could not be read.

    distance: bits of the perceptual hash in which such pictures may differ. A file that cannot be read stays alone.
    """
    files = [(folder / image["file_name"], (int(image["height"]), int(image["width"]))) for image in images]
    facts = scan_images(files, workers, progress, reader)
    groups = group_pairs(len(files), find_similar(facts, distance))
    return groups, [fact.fault for fact in facts if fact.fault is not None]


def joined(groupings: Sequence[Ints], count: int) -> Ints:
    """Groups that keep together what any of the groupings keeps together: int64 [count]."""
    rows = np.arange(count)
    pairs = [np.stack((grouping, rows), axis=1) for grouping in groupings]
    return group_pairs(count, np.concatenate(pairs)) if pairs else rows
