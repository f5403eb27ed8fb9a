"""The entries of a COCO JSON's lists, and the faults that make some unusable.

A training stops at the first fault; `check` lists all of them and goes on with the sound entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

TOO_LARGE = 2**62  # ids stay below it, so that int64 also holds those that are added
KINDS = {  # of faults, causes before their effects
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


class Faults:
    """The faults of one JSON. file: its name, for messages."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: dict[tuple[str, str], Fault] = {}

    def add(self, kind: str, noun: str, items: Sequence[int | str], problem: str) -> None:
        """Note some entries. problem: what is wrong with the first, to follow its name and the file's."""
        message = f"{noun} {items[0]} in {self.file} {problem}"
        self._found.setdefault((kind, noun), Fault(kind, noun, message)).items += items

    def clear(self) -> None:
        self._found.clear()

    def __iter__(self) -> Iterator[Fault]:
        """In the order of KINDS."""
        order = list(KINDS)
        return iter(sorted(self._found.values(), key=lambda fault: order.index(fault.kind)))

    def __len__(self) -> int:
        return len(self._found)


class Entries:
    """The sound entries of one list of a JSON. Faulty ones are left out and noted in `faults`.

    first: position of items[0] in the whole list. numbers: positions of the sound entries. lost: ids of the others.
    """

    def __init__(self, noun: str, items: list[Any], faults: Faults, first: int = 0) -> None:
        self.noun, self.items, self.faults = noun, items, faults
        self.lost: set[int] = set()
        self.numbers: Sequence[int] = range(first, first + len(items))
        if {*map(type, items)} - {dict}:
            problems = [None if type(item) is dict else f"is {shown(item)}; it should be an object" for item in items]
            self.drop("not-an-object", problems)

    def __len__(self) -> int:
        return len(self.items)

    def drop(self, kind: str, problems: Sequence[str | None]) -> None:
        """Leave out the entries with a problem. problems: one for each entry, None for a sound one."""
        faulty = [row for row, problem in enumerate(problems) if problem is not None]
        if not faulty:
            return
        ids = [_id_of(self.items[row]) for row in faulty]
        names = [
            f"number {self.numbers[row]}" if number is None else number for row, number in zip(faulty, ids, strict=True)
        ]
        self.faults.add(kind, self.noun, names, str(problems[faulty[0]]))
        self.lost.update(number for number in ids if number is not None)
        sound = [row for row, problem in enumerate(problems) if problem is None]
        self.items, self.numbers = [self.items[row] for row in sound], [self.numbers[row] for row in sound]

    def whole_numbers(self, kinds: Mapping[str, str]) -> list[Ints]:
        """Columns of whole numbers: int64 [n] each. kinds: by key, the kind of fault of an entry without one."""
        columns = [self._column(key, kind) for key, kind in kinds.items()]
        return columns if {*map(len, columns)} == {len(self)} else self.whole_numbers(kinds)

    def _column(self, key: str, kind: str) -> Ints:
        values = [item.get(key) for item in self.items]
        if {*map(type, values)} == {int}:
            numbers = np.array(values)
            if numbers.dtype == np.int64 and np.abs(numbers).max() < TOO_LARGE:
                return numbers
        self.drop(kind, [_number_problem(key, value) for value in values])
        return np.array([item[key] for item in self.items], dtype=np.int64)

    def ids(self) -> Ints:
        """Column `id`: int64 [n]. Of several entries with one id the first stays."""
        (ids,) = self.whole_numbers({"id": f"{self.noun}-id"})
        values, first, counts = np.unique(ids, return_index=True, return_counts=True)
        if len(values) == len(ids):
            return ids
        times, kept = dict(zip(values.tolist(), counts.tolist(), strict=True)), set(first.tolist())
        problems = [
            None if row in kept else f"has an id that occurs {times[number]} times; give each {self.noun} its own"
            for row, number in enumerate(ids.tolist())
        ]
        self.drop(f"{self.noun}-id-repeated", problems)
        return ids[np.sort(first)]


def _number_problem(key: str, value: Any) -> str | None:
    if type(value) is not int and not (type(value) is float and value.is_integer()):
        return f"has {key} {shown(value)}; it should be a whole number"
    return f"has {key} {shown(value)}; it is too large" if abs(value) >= TOO_LARGE else None


def _id_of(item: Any) -> int | None:
    value: Any = item.get("id") if type(item) is dict else None
    return None if _number_problem("id", value) else int(value)


def shown(value: Any) -> str:
    """A value of the file, for a message of one line."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
