"""The classes of a training, and the labels that another JSON's categories have in it."""

from __future__ import annotations

from collections.abc import Iterable, Set

from maskrcnn_train.data.coco.index import Category
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.classes import ClassMap


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
