"""Two models on the same images: which is better, and whether these images can tell."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from maskrcnn_train.evaluation.diagnostics.bootstrap import TOO_FEW_IMAGES, Difference, difference
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics
from maskrcnn_train.settings.errors import UserError


@dataclass
class Comparison:
    """One score of both, as fractions. difference: b - a, paired over the images."""

    name: str
    a: float
    b: float
    difference: Difference

    @property
    def verdict(self) -> str:
        if not self.difference.clear:
            return "not distinguishable"
        return "b is better" if self.difference.value > 0 else "a is better"

    def to_plain(self) -> dict[str, Any]:
        """For JSON. note: why there is no interval, if there is none."""
        note = f"no interval: {TOO_FEW_IMAGES}" if self.difference.low is None else ""
        return asdict(self) | {"verdict": self.verdict, "note": note}


def same_images(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Raises UserError unless two ground truths are of the same images and as many objects."""
    ids = [{image["id"] for image in each["images"]} for each in (first, second)]
    num_objects = [len(each["annotations"]) for each in (first, second)]
    if len(ids[0]) != len(ids[1]) or num_objects[0] != num_objects[1]:
        found = f"on {len(ids[0])} images with {num_objects[0]} objects, b on {len(ids[1])} with {num_objects[1]}"
    elif ids[0] != ids[1]:
        found = f"on as many images as b, but {len(ids[0] - ids[1])} of the {len(ids[0])} have ids that b's lack"
    else:
        return
    raise UserError(f"compare: a is scored {found}; score both on the same data with data= and split=")


def compare(first: Mapping[str, Diagnostics], second: Mapping[str, Diagnostics]) -> list[Comparison]:
    """Every headline score that both have. Both must have been made with the same draws and measures.

    Raises UserError if one is of boxes only and the other of masks only.
    """
    kinds = [kind for kind in first if kind in second]
    if not kinds:
        raise UserError(f"compare: a is scored by {', '.join(first)}, b by {', '.join(second)}: nothing to compare")
    found = []
    for kind in kinds:
        for measure, a in first[kind].draws.items():
            b = second[kind].draws[measure]
            if change := difference(a, b):
                found.append(Comparison(f"{kind}/{measure}", float(a[0]), float(b[0]), change))
    return found
