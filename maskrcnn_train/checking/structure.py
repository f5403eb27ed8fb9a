"""Finds everything in a COCO JSON for which reading it stops, and leaves it out, so that the rest can be looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.data.coco.reader import MAX_SIDE, is_path, is_text, leaves_folder

Item = dict[str, Any]
LISTS = {"images": "image", "categories": "category", "annotations": "annotation"}


def without_faults(content: Item, split: str) -> tuple[Item, list[Finding]]:
    """A copy of a parsed COCO JSON that can be read, and an error for each kind of fault with every item at fault.

    Annotations of what is left out are left out with it; faults of single annotations that reading survives are not
    looked for here. Lists that are none are left for the reader to refuse.
    """
    if not all(isinstance(content[name], list) for name in LISTS):
        return content, []
    sieve = _Sieve(content, split)
    for name, noun in LISTS.items():
        sieve.drop(name, "not-an-object", f"{noun} entries that are no objects", lambda item: type(item) is not dict)
    for name in ("images", "categories"):
        noun = LISTS[name]
        sieve.drop(name, f"{noun}-id", f"{noun} id missing or not a whole number", lambda item: not _whole(item, "id"))
        sieve.drop(name, f"{noun}-id-repeated", f"{noun} id used twice", _repeats("id"), spoils=False)
    sieve.drop(
        "images", "image-file-name", "file_name missing or not a path", lambda i: not is_path(i.get("file_name"))
    )
    sieve.drop(
        "images", "image-outside", "file_name leaves the folder of images", lambda i: leaves_folder(i["file_name"])
    )
    sieve.drop("images", "image-size", "width or height missing or no pixels", _has_no_size)
    sieve.drop("categories", "category-name", "category without a name", lambda i: not is_text(i.get("name")))
    for key, name in (("image_id", "images"), ("category_id", "categories")):
        known, spoilt = {item["id"] for item in sieve.content[name]}, sieve.spoilt[name]
        _drop_strangers(sieve, key, LISTS[name], known, spoilt)
    return sieve.content, sieve.findings


class _Sieve:
    """The lists of a JSON, made shorter step by step. spoilt: ids of images and categories that were left out."""

    def __init__(self, content: Item, split: str) -> None:
        self.content = dict(content)
        self.split = split
        self.findings: list[Finding] = []
        self.spoilt: dict[str, set[Any]] = {"images": set(), "categories": set()}
        self._places = {name: list(range(len(content[name]))) for name in LISTS}

    def drop(
        self, name: str, kind: str, what: str, is_faulty: Callable[[Any], bool], *, spoils: bool = True, fix: str = ""
    ) -> None:
        """Leave out the entries of list `name` at fault. spoils: annotations that refer to them go unnoticed too."""
        kept, places, named = [], [], []
        for item, place in zip(self.content[name], self._places[name], strict=True):
            if not is_faulty(item):
                kept.append(item)
                places.append(place)
                continue
            named.append(_name(item, place))
            if spoils and name in self.spoilt and type(item) is dict and _whole(item, "id"):
                self.spoilt[name].add(item["id"])
        self.content[name], self._places[name] = kept, places
        if named:
            fix = fix or f"correct these entries of `{name}`"
            self.findings.append(Finding("error", kind, what, self.split, LISTS[name], named, fix=fix))


def _drop_strangers(sieve: _Sieve, key: str, noun: str, known: set[Any], spoilt: set[Any]) -> None:
    """Annotations of images or categories that are not there; of those that were left out, without a word."""
    kept = [item for item in sieve.content["annotations"] if not (_whole(item, key) and item[key] in spoilt - known)]
    if len(kept) < len(sieve.content["annotations"]):
        ids = {id(item) for item in kept}
        pairs = zip(sieve.content["annotations"], sieve._places["annotations"], strict=True)
        sieve._places["annotations"] = [place for item, place in pairs if id(item) in ids]
        sieve.content["annotations"] = kept
    sieve.drop(
        "annotations", f"annotation-{noun}-id", f"{key} missing or not a whole number", lambda i: not _whole(i, key)
    )
    sieve.drop(
        "annotations",
        f"annotation-{noun}-unknown",
        f"{key} of no {noun}",
        lambda item: item[key] not in known,
        fix=f"correct {key}, or add the {noun} to the JSON",
    )


def _name(item: Any, place: int) -> int | str:
    return item["id"] if type(item) is dict and _whole(item, "id") else f"number {place}"


def _whole(item: Item, key: str) -> bool:
    value = item.get(key)
    whole = type(value) is int or (type(value) is float and value.is_integer())
    return whole and abs(value) < 2**63  # type: ignore[arg-type]


def _repeats(key: str) -> Callable[[Item], bool]:
    seen: set[Any] = set()

    def is_repeated(item: Item) -> bool:
        repeated = item[key] in seen
        seen.add(item[key])
        return repeated

    return is_repeated


def _has_no_size(item: Item) -> bool:
    return not all(_whole(item, key) and 1 <= item[key] <= MAX_SIDE for key in ("width", "height"))
