"""Labels that a training leaves out, because a file of doubts (`data.exclude`) names them."""

from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.data.paths import require_file
from maskrcnn_train.data.texts import read_json
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Ints

EXCLUDED = "named by data.exclude"


def named_annotations(index: AnnotationIndex, path: Path) -> tuple[Ints, list[str]]:
    """Rows of the annotations that a file names, and a note on those that these labels have not.

    The file is a list, or has one as `doubts`, of annotation ids and of objects with `annotations`, a list of ids, and
    `image`, the file name of the image that they must be in if it is there. An id is what `AnnotationIndex.item` gives.
    Raises UserError for another content, and where none is found.
    """
    named = _read(path)
    rows = {index.item(row): row for row in range(index.num_annotations)}
    found, lost = set(), []
    for image, item in named:
        row = rows.get(item)
        if row is None or image not in (None, index.file_name(int(index.image_rows[row]))):
            lost.append(item)
        else:
            found.add(row)
    if named and not found:
        raise UserError(
            f"data.exclude={path} names no annotation of {index.short_name}, first: {lost[0]}; give that of this data"
        )
    notes = (
        [f"{index.short_name} lacks {len(lost)} annotations of data.exclude={path}, first: {lost[0]}"] if lost else []
    )
    return np.array(sorted(found), dtype=np.int64), notes


def _read(path: Path) -> list[tuple[str | None, int | str]]:
    """(image, id) of every annotation in the file; image None: whichever it is in."""
    require_file(path, "set data.exclude to the doubts.json of a `labels` command")
    content = read_json(path)
    entries = content.get("doubts") if isinstance(content, dict) else content
    named: list[tuple[str | None, int | str]] = []
    for entry in entries if isinstance(entries, list) else [None]:
        item: Any = {"annotations": [entry]} if isinstance(entry, int | str) else entry
        ids = item.get("annotations") if isinstance(item, dict) else None
        if not isinstance(ids, list) or not all(isinstance(each, int | str) for each in ids):
            raise UserError(
                f"data.exclude={path} is no list of doubts; give a doubts.json, or a list of annotation ids"
            )
        named += [(item.get("image"), each) for each in ids]
    return named
