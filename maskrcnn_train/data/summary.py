"""A data set in a few numbers, as plain data for a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn_train.data.splits.splitting import Split, Splits


def summarize(splits: Splits) -> dict[str, Any]:
    """For JSON: numbers of images and objects of each split, what is not used of its JSON as it stands, and notes."""
    parts = {name: _summary(split, splits.classes.names) for name, split in splits.by_name.items()}
    return {"splits": parts, "notes": list(splits.notes)}


def _summary(split: Split, names: list[str]) -> dict[str, Any]:
    index = split.index
    real = split.is_object
    of_class = np.bincount(split.labels[real], minlength=len(names) + 1)[1:].tolist()
    with_objects = len(np.unique(index.image_rows[real]))
    return {
        "annotations": index.source,
        "images": len(split),
        "empty_images": len(split) - with_objects,
        "objects": int(real.sum()),
        "crowd": split.num_objects - int(real.sum()),
        "classes": dict(zip(names, of_class, strict=True)),
        "not_used": [
            {"reason": row.reason, "count": row.count, "dropped": row.dropped, "first": row.examples[0]}
            for row in split.skipped
        ],
    }
