"""The classes of a training, and the labels that another JSON's categories have in it."""

import itertools
from collections import Counter
from collections.abc import Set

from maskrcnn_train.data.coco.index import AnnotationIndex, Category
from maskrcnn_train.data.splits.choosing import Choice, choice_notes, chosen_categories
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.classes import ClassMap


def build_class_map(index: AnnotationIndex, data: Choice) -> tuple[ClassMap, list[str]]:
    """Classes of a training JSON as `data` chooses them, and notes on what a person may not expect.

    A super-category without objects is left out; other classes without objects stay. Two classes with one name stay
    two, told apart by their id. Raises UserError when no class is left.
    """
    source, chosen = index.short_name, chosen_categories(index, data)
    used = {chosen[number].id for number in index.used_categories & chosen.keys()}
    kept, notes = _without_supercategories({each.id: each for each in chosen.values()}, used, source)
    if not kept:
        raise UserError(f"{source} has no categories; add the classes to its `categories`")
    names, times = [], Counter(category.name for category in kept)
    for category in kept:
        names.append(category.name if times[category.name] == 1 else f"{category.name} (id {category.id})")
        if names[-1] != category.name:
            notes.append(f"{source} has several categories named {category.name}; id {category.id} is {names[-1]}")
    unused = [name for name, category in zip(names, kept, strict=True) if category.id not in used]
    if unused:
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        notes.append(f"{source} has no objects of {', '.join(unused[:5])}{more}; the model cannot learn them")
    return ClassMap(names, [category.id for category in kept]), choice_notes(index, data) + notes


def _without_supercategories(
    categories: dict[int, Category], used: Set[int], source: str
) -> tuple[list[Category], list[str]]:
    kept, notes = [categories[number] for number in sorted(categories)], []
    for category in list(kept):
        others = [other for other in kept if other.id != category.id]
        is_parent = any(category.name in (other.supercategory, other.name) for other in others)
        if category.id not in used and is_parent:
            kept = others
            what = f"category {category.id} ({category.name}) is a super-category without objects; left out"
            notes.append(f"{source}: {what}")
    return kept, notes


def match_categories(classes: ClassMap, index: AnnotationIndex, data: Choice) -> tuple[dict[int, int], list[Category]]:
    """Label of each used category id of another JSON, matched by name; and the used categories that are no class.

    Categories that `data` leaves out are in neither.
    """
    labels: dict[int, int] = {}
    unknown, used = [], index.used_categories
    for number, category in chosen_categories(index, data).items():
        label = _label_of(classes, number, category)
        if number in used and label is not None:
            labels[number] = label
        elif number in used:
            unknown.append(category)
    return labels, unknown


def _label_of(classes: ClassMap, number: int, category: Category) -> int | None:
    """Label of a chosen category with id `number` in its JSON."""
    names = [name for name in (f"{category.name} (id {number})", category.name) if name in classes.names]
    return classes.names.index(names[0]) + 1 if names else None


def categories_in(index: AnnotationIndex, classes: ClassMap, data: Choice) -> dict[int, Category]:
    """How a JSON has each class, by the class's id: its own category, or one to add.

    Of merged categories it is the one with the name of the class, else the first.
    """
    own = {each.id: each for each in index.categories}
    found = {each.name: each for each in index.categories}
    chosen = chosen_categories(index, data)
    for number in sorted(chosen, key=lambda number: (own[number].name == chosen[number].name, -number)):
        if (label := _label_of(classes, number, chosen[number])) is not None:
            found[classes.name_of(label)] = own[number]
    free = itertools.count(max(own, default=0) + 1)
    return {id_: found.get(name) or Category(next(free), name, None) for id_, name in classes.name_of_id.items()}


def map_categories(
    classes: ClassMap, index: AnnotationIndex, data: Choice, train_source: str
) -> tuple[dict[int, int], list[str]]:
    """`match_categories`, and notes where ids differ. Raises UserError for a used class unknown to training."""
    labels, unknown = match_categories(classes, index, data)
    source, chosen = index.short_name, chosen_categories(index, data)
    if unknown:
        raise UserError(
            f"{source} has objects of {unknown[0].name} (id {unknown[0].id}), a class that {train_source} has not; "
            f"its classes are {classes}. Rename the category or add it to the training data"
        )
    pairs = dict.fromkeys((chosen[number].id, label, classes.id_of(label)) for number, label in labels.items())
    return labels, choice_notes(index, data) + [
        f"{classes.name_of(label)} has id {number} in {source} and {train_id} in {train_source}; matched by name"
        for number, label, train_id in pairs
        if number != train_id and index.from_json
    ]
