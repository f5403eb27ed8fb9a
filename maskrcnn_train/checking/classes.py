"""How many objects of each class each split has."""

from __future__ import annotations

import numpy as np

from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.data.classes import ClassMap
from maskrcnn_train.data.splitting import Split
from maskrcnn_train.data.stratifying import count_objects

FEW = 10  # objects of a class in training, below which it will hardly be learnt


def count_classes(splits: dict[str, Split], classes: ClassMap) -> dict[str, list[int]]:
    """Objects of each class in each split, in the order of labels."""
    return {
        name: count_objects(split.index, split.labels, len(classes.names))[split.rows].sum(axis=0).tolist()
        for name, split in splits.items()
    }


def check_classes(splits: dict[str, Split], classes: ClassMap) -> list[Finding]:
    """Classes that cannot be learnt or scored."""
    counts = {name: np.array(numbers) for name, numbers in count_classes(splits, classes).items()}
    train = counts["train"]
    absent, few = train == 0, (train > 0) & (train < FEW)
    unscored = (train > 0) & (counts["val"] == 0) if "val" in counts else np.zeros(len(train), dtype=bool)
    found = (
        ("class-absent", "classes without a training object", "train", absent, "remove them from `categories`"),
        ("class-rare", f"classes with less than {FEW} training objects", "train", few, "annotate more of them"),
        ("class-unscored", "classes without an object in val: their AP is undefined", "val", unscored, _SPLIT_AGAIN),
    )
    return [
        Finding("warning", kind, what, split, "class", [classes.names[row] for row in np.flatnonzero(which)], fix=fix)
        for kind, what, split, which, fix in found
        if which.any()
    ]


_SPLIT_AGAIN = "cut the data anew: python -m maskrcnn_train.split"
