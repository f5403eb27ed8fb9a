"""The categories that the keys `rename`, `merge` and `classes` make of those of a JSON."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches

import numpy as np

from maskrcnn_train.data.coco.index import AnnotationIndex, Category
from maskrcnn_train.data.coco.reader import is_text
from maskrcnn_train.settings.command_schema import SplitCommandConfig
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import DataConfig

Choice = DataConfig | SplitCommandConfig  # `data` of a training, or the keys of the `split` command


def chosen_categories(index: AnnotationIndex, data: Choice) -> dict[int, Category]:
    """What each category counts as, by its id in the JSON; those left out are missing.

    Names change first, then categories are merged, then `classes` are kept. Merged categories are one category
    with the smallest of their ids. Names that the JSON does not have are passed over.
    """
    chosen: dict[int, Category] = {}
    first: dict[str, int] = {}  # of merged categories
    for category in sorted(index.categories, key=lambda category: category.id):
        name, id_ = category.name, category.id
        for table in (data.rename or {}, _merged(data)):
            name = table.get(f"{name} (id {id_})", table.get(name, name))
        if name in (data.merge or {}):
            id_ = first.setdefault(name, id_)
        if data.classes is None or {name, f"{name} (id {category.id})"} & {*data.classes}:
            chosen[category.id] = replace(category, id=id_, name=name)
    return chosen


def _merged(data: Choice) -> dict[str, str]:
    """Name -> name of the class that it is merged into."""
    return {name: new for new, names in (data.merge or {}).items() for name in names}


def choice_notes(index: AnnotationIndex, data: Choice) -> list[str]:
    """What the choice does to this JSON, with numbers of annotations."""
    chosen = chosen_categories(index, data)
    counted: dict[str, list[str]] = {}
    for each in index.categories:
        becomes = f"are now {chosen[each.id].name}" if each.id in chosen else "are left out"
        if each.id not in chosen or chosen[each.id].name != each.name:
            number = np.count_nonzero(index.category_ids == each.id)
            counted.setdefault(becomes, []).append(f"{each.name} ({number})")
    return [
        f"{index.short_name}: annotations of {', '.join(old[:5])}"
        f"{f' and {len(old) - 5} more' if len(old) > 5 else ''} {becomes}"
        for becomes, old in counted.items()
    ]


def check_choice(index: AnnotationIndex, data: Choice) -> None:
    """Raises UserError for a name that the training JSON does not have, and for one that would mean two classes."""
    rename, merge, merged = data.rename or {}, data.merge or {}, _merged(data)
    section = "data." if isinstance(data, DataConfig) else ""
    times = Counter(category.name for category in index.categories)
    names = {*times} | {f"{each.name} (id {each.id})" for each in index.categories if times[each.name] > 1}
    for key, asked, new in (("rename", rename, [*rename.values()]), ("merge", merged, [*merge])):
        _require(section + key, asked, names, index.short_name)
        names -= {*asked}
        twice = [name for name in new if name in names or new.count(name) > 1]
        if twice:
            raise UserError(f"{section}{key} calls two classes {twice[0]}; to join them, list both in {section}merge")
        if wrong := [name for name in new if not is_text(name) or " ".join(name.split()) != name]:
            what = "write a text of one line, without spaces around it or several between words"
            raise UserError(f"{section}{key} calls a class {wrong[0]!r}; {what}")
        names |= {*new}
    _require(section + "classes", data.classes or [], names, index.short_name)
    if data.classes == []:
        raise UserError(f"{section}classes=[] keeps no class; name some, or null for all")
    if len(merged) < sum(map(len, merge.values())):
        raise UserError(f"{section}merge names a class twice; each can become part of one class only")


def _require(key: str, asked: Iterable[str], names: set[str], source: str) -> None:
    for name in asked:
        if name not in names:
            near = get_close_matches(name, names, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(names)[:20])}"
            raise UserError(f"{key} names {name}, a class that {source} has not; {hint}")


def with_choice(data: DataConfig | None, trained: DataConfig) -> DataConfig:
    """The data that a trained model is scored on; other data counts as in its training, unless it says otherwise."""
    if data is None or data.rename or data.merge or data.classes:
        return data or trained
    return replace(data, rename=trained.rename, merge=trained.merge, classes=trained.classes)
