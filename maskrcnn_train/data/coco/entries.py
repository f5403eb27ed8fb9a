"""The entries of a COCO JSON's lists, and the faults that make some unusable.

A training stops at the first fault; `check` lists all of them and goes on with the sound entries.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskrcnn_train.structures.arrays import Ints

Problem = tuple[str, str] | None  # kind of fault, and words to follow the entry's name

TOO_LARGE = 2**62  # ids stay below it, so that int64 also holds those that are added
KINDS = {  # of faults, causes before their effects
    "label-file": "files of labels or pictures that cannot be read",
    "not-an-object": "entries that are not JSON objects",
    "image-id": "image id missing, too large or not a whole number",
    "image-id-repeated": "image id used twice",
    "image-file-name": "file_name missing or not a path",
    "image-outside": "file_name leaves the folder of images",
    "image-size": "width or height missing, zero or too large",
    "category-id": "category id missing, too large or not a whole number",
    "category-id-repeated": "category id used twice",
    "category-name": "category without a name",
    "annotation-image-id": "image_id missing, too large or not a whole number",
    "annotation-image-unknown": "image_id of no image",
    "annotation-category-id": "category_id missing, too large or not a whole number",
    "annotation-category-unknown": "category_id of no category",
}


@dataclass
class Fault:
    """The entries that are unusable for one reason.

    kind: one of KINDS. noun: image, category or annotation. message: one line about the first entry.
    items: the id of each, or "number 3" (counted from 0) where it has none.
    """

    kind: str
    noun: str
    message: str
    items: list[int | str] = field(default_factory=list)


class Faults(dict[tuple[str, str], Fault]):
    """The faults of one JSON by kind and noun. file: its name, for messages."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def add(self, kind: str, noun: str, item: int | str, problem: str) -> None:
        """Note an entry. problem: what is wrong with it, to follow its name and the file's."""
        fault = self.setdefault((kind, noun), Fault(kind, noun, f"{noun} {item} in {self.file} {problem}"))
        fault.items.append(item)

    @property
    def in_order(self) -> list[Fault]:
        """In the order of KINDS."""
        return sorted(self.values(), key=lambda fault: [*KINDS].index(fault.kind))


class Entries:
    """The sound entries of one list of a JSON. Faulty ones are left out and noted in `faults`.

    first: position of items[0] in the whole list. numbers: positions of the sound entries. lost: ids of the others.
    """

    def __init__(self, noun: str, items: list[Any], faults: Faults, first: int = 0) -> None:
        self.noun, self.items, self.faults = noun, items, faults
        self.numbers: Sequence[int] = range(first, first + len(items))
        self.lost: set[int] = set()
        if {*map(type, items)} - {dict}:
            kind, should = "not-an-object", "; it should be an object"
            self.check(lambda item: None if type(item) is dict else (kind, f"is {shown(item)}{should}"))

    def check(self, problem: Callable[[Any], Problem]) -> None:
        """Leave out the entries in which `problem` finds one."""
        problems = [problem(item) for item in self.items]
        for number, item, found in zip(self.numbers, self.items, problems, strict=True):
            if found is not None:
                has_id = type(item) is dict and number_problem(item, "id") is None
                self.faults.add(found[0], self.noun, item["id"] if has_id else f"number {number}", found[1])
                self.lost |= {item["id"]} if has_id else set()
        sound = [row for row, found in enumerate(problems) if found is None]
        if len(sound) < len(problems):
            self.items, self.numbers = [self.items[row] for row in sound], [self.numbers[row] for row in sound]

    def column(self, key: str) -> Ints:
        """Column of whole numbers, checked before: int64 [n]."""
        return np.array([item[key] for item in self.items], dtype=np.int64)

    def unique_ids(self) -> Ints:
        """Column `id`, checked before: int64 [n]. Of several entries with one id only the first stays."""
        times, seen = Counter(item["id"] for item in self.items), set[int]()

        def repeated(item: dict[str, Any]) -> Problem:
            if item["id"] not in seen:
                seen.add(item["id"])
                return None
            often = f"has an id that occurs {times[item['id']]} times; give each {self.noun} its own"
            return f"{self.noun}-id-repeated", often

        if len(times) < len(self.items):
            self.check(repeated)
        return self.column("id")


def number_problem(item: Mapping[str, Any], key: str) -> str | None:
    """What is wrong with a value that should be a whole number."""
    value = item.get(key)
    if type(value) is not int and not (type(value) is float and value.is_integer()):
        return f"has {key} {shown(value)}; it should be a whole number"
    return f"has {key} {shown(value)}; it is too large" if abs(value) >= TOO_LARGE else None


def shown(value: Any) -> str:
    """A value of the file, for a message of one line."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
