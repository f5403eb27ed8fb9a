"""How many objects of each class each split has."""

from collections.abc import Iterator

import numpy as np

from maskrcnn_train.checking.advice import split_again
from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.data.tile_layout import lay_out
from maskrcnn_train.settings.schema import DataConfig
from maskrcnn_train.structures.classes import ClassMap

FEW = 10  # training objects of a class, below which it can hardly be learnt
UNEVEN = 10  # a class on this many times fewer images than the median class is too rare


def count_classes(splits: dict[str, Split], classes: ClassMap) -> dict[str, list[int]]:
    """Objects of each class in each split, in the order of labels."""
    return {name: split.count_classes(len(classes.names)) for name, split in splits.items()}


def check_classes(splits: dict[str, Split], classes: ClassMap, data: DataConfig) -> Iterator[Finding]:
    """Classes that cannot be learnt or scored."""
    counts = {name: np.array(numbers) for name, numbers in count_classes(splits, classes).items()}
    train = counts["train"]
    unscored = (train > 0) & (counts.get("val", train) == 0)
    few, no_ap = (train > 0) & (train < FEW), "classes without an object in val: their AP is undefined"
    for kind, what, split, which, fix in (
        ("class-absent", "classes without a training object", "train", train == 0, "remove them from `categories`"),
        ("class-rare", f"classes with less than {FEW} training objects", "train", few, "annotate more of them"),
        ("class-unscored", no_ap, "val", unscored, split_again(data)),
    ):
        if which.any():
            names = [classes.names[row] for row in np.flatnonzero(which)]
            yield Finding("warning", kind, what, split, "class", names, fix=fix)


def check_class_balance(train: Split, classes: ClassMap, data: DataConfig) -> Iterator[Finding]:
    """Classes far rarer than the others, unless `data.repeat_threshold` repeats their images or tiles."""
    presence, shares = lay_out(train, data.tile).presence, np.zeros(len(classes.names))
    of = len(train) if data.tile.size is None else len(presence)  # as `data.repeat_threshold` counts
    shares[: presence.shape[1]] = presence.sum(axis=0) / max(1, of)
    present = shares > 0
    middle = float(np.median(shares[present])) if present.any() else 0.0
    rare = present & (shares * UNEVEN <= middle)
    if rare.any() and data.repeat_threshold <= shares[rare].max():
        what = f"classes on less than a tenth of the images of the median class ({100 * middle:.0f} %)"
        names = [classes.names[row] for row in np.flatnonzero(rare)]
        override = {"data.repeat_threshold": float(f"{middle / 2:.1g}")}
        yield Finding("advice", "classes-uneven", what, "train", "class", names, override)
