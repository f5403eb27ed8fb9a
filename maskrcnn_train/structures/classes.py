"""The one map between category ids of the JSON, labels of the model, and class names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from maskrcnn_train.settings.errors import UserError


@dataclass(frozen=True)
class ClassMap:
    """Classes in the order of their labels: label 1 is names[0] with category id ids[0]; 0 is background.

    objects: how many of each the training images show; None: not known.

    >>> classes = ClassMap(names=["door", "window"], ids=[3, 7])
    >>> classes.id_of(2), classes.name_of(2), classes.num_classes
    (7, 'window', 3)
    """

    names: list[str]
    ids: list[int]
    objects: list[int] | None = field(default=None, compare=False)

    @property
    def num_classes(self) -> int:
        """Classes with the background."""
        return len(self.names) + 1

    @property
    def name_of_id(self) -> dict[int, str]:
        """Category id -> name."""
        return dict(zip(self.ids, self.names, strict=True))

    def id_of(self, label: int) -> int:
        """Category id of a label. Raises UserError for the background and for labels out of range."""
        self._check_label(label)
        return self.ids[label - 1]

    def name_of(self, label: int) -> str:
        """Name of a label. Raises UserError for the background and for labels out of range."""
        self._check_label(label)
        return self.names[label - 1]

    def to_plain(self) -> dict[str, Any]:
        """For checkpoints and classes.json."""
        return {"names": list(self.names), "ids": list(self.ids), "objects": self.objects}

    @classmethod
    def from_plain(cls, plain: Any) -> ClassMap:
        """Raises UserError where it is no map."""
        content = plain if isinstance(plain, dict) else {}
        names: Any = content.get("names")
        ids: Any = content.get("ids")
        objects: Any = content.get("objects")
        lists = isinstance(names, list) and isinstance(ids, list) and len(names) == len(ids)
        if not lists or not all(type(number) is int for number in ids):
            hint = "one text and one whole number for each class; copy a checkpoint's classes.json"
            raise UserError(f"the classes need `names` and `ids`, {hint}")
        counted = isinstance(objects, list) and [type(count) for count in objects] == [int] * len(names)
        if objects is not None and not counted:
            raise UserError("`objects` of the classes has one whole number for each class; leave it out if not known")
        return cls([str(name) for name in names], list(ids), objects)

    def __str__(self) -> str:
        return ", ".join(f"{name} (id {number})" for name, number in zip(self.names, self.ids, strict=True))

    def _check_label(self, label: int) -> None:
        if not 1 <= label <= len(self.names):
            raise UserError(f"label {label} is not a class; labels are 1..{len(self.names)}")
