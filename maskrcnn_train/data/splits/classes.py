"""The one map between category ids of the JSON, labels of the model, and class names."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

from maskrcnn_train.data.coco.index import Category
from maskrcnn_train.settings.errors import UserError


@dataclass(frozen=True)
class ClassMap:
    """Classes in the order of their labels: label 1 is names[0] with category id ids[0]; 0 is background.

    >>> classes = ClassMap(names=["door", "window"], ids=[3, 7])
    >>> classes.label_of(7), classes.id_of(2), classes.name_of(2), classes.num_classes
    (2, 7, 'window', 3)
    """

    names: list[str]
    ids: list[int]

    @property
    def num_classes(self) -> int:
        """Classes with the background."""
        return len(self.names) + 1

    def label_of(self, category_id: int) -> int:
        """Label of a category id. Raises UserError for an id that is no class."""
        if category_id not in self.ids:
            raise UserError(f"category id {category_id} is not a class; the classes are {self}")
        return self.ids.index(category_id) + 1

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
        return {"names": list(self.names), "ids": list(self.ids)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> ClassMap:
        """Raises UserError where it is no map."""
        if not all(isinstance(plain.get(key), list) for key in ("names", "ids")):
            raise UserError("the classes lack their names or ids; take them from a checkpoint's classes.json")
        return cls(names=[str(name) for name in plain["names"]], ids=[int(number) for number in plain["ids"]])

    def __str__(self) -> str:
        return ", ".join(f"{name} (id {number})" for name, number in zip(self.names, self.ids, strict=True))

    def _check_label(self, label: int) -> None:
        if not 1 <= label <= len(self.names):
            raise UserError(f"label {label} is not a class; labels are 1..{len(self.names)}")


def build_class_map(categories: Iterable[Category], used: Set[int], source: str) -> tuple[ClassMap, list[str]]:
    """Classes of a training JSON, and notes on what a person may not expect.

    used: the category ids that have objects. A super-category without objects is left out; other classes without
    objects stay. Two classes with one name stay two, told apart by their id.
    Raises UserError when no class is left.
    """
    kept, notes = _without_supercategories(sorted(categories, key=lambda category: category.id), used, source)
    if not kept:
        raise UserError(f"{source} has no categories; add the classes to its `categories`")
    names = [category.name for category in kept]
    for position, category in enumerate(kept):
        if [other.name for other in kept].count(category.name) > 1:
            names[position] = f"{category.name} (id {category.id})"
            notes.append(
                f"{source} has several categories named {category.name}; id {category.id} is {names[position]}"
            )
    unused = [name for name, category in zip(names, kept, strict=True) if category.id not in used]
    if unused:
        notes.append(f"{source} has no objects of {_listed(unused)}; the model cannot learn them")
    return ClassMap(names, [category.id for category in kept]), notes


def _without_supercategories(
    categories: list[Category], used: Set[int], source: str
) -> tuple[list[Category], list[str]]:
    kept, notes = list(categories), []
    for category in categories:
        others = [other for other in kept if other.id != category.id]
        is_parent = any(category.name in (other.supercategory, other.name) for other in others)
        if category.id not in used and is_parent:
            kept = others
            notes.append(
                f"{source}: category {category.id} ({category.name}) is a super-category without objects; left out"
            )
    return kept, notes


def match_categories(
    classes: ClassMap, categories: Iterable[Category], used: Set[int]
) -> tuple[dict[int, int], list[Category]]:
    """Label of each used category id of another JSON, matched by name; and the used categories that are no class."""
    labels: dict[int, int] = {}
    unknown = []
    for category in sorted(categories, key=lambda category: category.id):
        names = [name for name in (f"{category.name} (id {category.id})", category.name) if name in classes.names]
        if category.id in used and names:
            labels[category.id] = classes.names.index(names[0]) + 1
        elif category.id in used:
            unknown.append(category)
    return labels, unknown


def map_categories(
    classes: ClassMap, categories: Iterable[Category], used: Set[int], source: str, train_source: str
) -> tuple[dict[int, int], list[str]]:
    """`match_categories`, and notes where ids differ. Raises UserError for a used class unknown to training."""
    labels, unknown = match_categories(classes, categories, used)
    if unknown:
        raise UserError(
            f"{source} has objects of {unknown[0].name} (id {unknown[0].id}), a class that {train_source} has not; "
            f"its classes are {classes}. Rename the category or add it to the training data"
        )
    pairs = [(number, label, classes.ids[label - 1]) for number, label in labels.items()]
    return labels, [
        f"{classes.name_of(label)} has id {number} in {source} and {train_id} in {train_source}; matched by name"
        for number, label, train_id in pairs
        if number != train_id
    ]


def _listed(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
