"""Damages annotation files at random, the same for every seed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from small_coco import Coco, annotation, small_coco

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 7, 0.5, -0.0, 1e-300, 1e9, 1e18, 1e308, -1e308, 2**31, 2**40, 2**62, 2**63),
    *(float("nan"), float("inf"), float("-inf"), 10**30, 10**400, "", " ", "x", "7", "\ud800", "\0", "ü" * 300, "a\nb"),
    *(
        [],
        {},
        [[]],
        [[[]]],
        [{}],
        [None],
        [0],
        [1, 2, 3],
        [1, 2, 3, 4],
        [[1, 2, 3, 4, 5, 6]],
        [["a"] * 6],
        [[None] * 6],
    ),
    *({"size": [40, 60], "counts": [2400]}, {"size": [40, 60], "counts": "0"}, {"counts": []}, {"size": None}),
    *([[0, 0, 1e6, 0, 1e6, 1e6] * 3000], [[-500, -300, 500, 300] * 5000], [[5.0, 5.0] * 8], [1e9] * 4, [3, 3, -5, 5]),
    *("../x.png", "/etc/passwd", "C:\\x", "1.png", "sub/../1.png", "." * 5000),
]


def sound_coco() -> Coco:
    """Polygons, several parts, both kinds of RLE, a crowd region, an empty image."""
    coco = small_coco(4)
    runs = {"size": [40, 60], "counts": [410, 12, 28, 12, 1938]}
    coco["annotations"] += [
        annotation(20, 1, 3, 10, 8, 2, bbox=[10, 10, 2, 12], segmentation=runs),
        annotation(21, 3, 7, 1, 2, 7, segmentation={"size": [40, 60], "counts": "Z17Q10000KPO2P130000nP2"}, iscrowd=1),
        annotation(
            22,
            2,
            7,
            3,
            3,
            27,
            bbox=[3, 3, 27, 30],
            segmentation=[[3, 3, 12, 3, 12, 12], [20, 20, 30, 20, 30, 33, 20, 33]],
        ),
    ]
    coco["images"].append({"id": 9, "file_name": "9.png", "width": 60, "height": 40})
    return coco


def damaged(seed: int) -> bytes:
    """The bytes of a file with one to four faults: wrong values, lost and repeated entries, damaged bytes."""
    rng = random.Random(seed)
    coco = sound_coco()
    for _ in range(rng.choice([1, 1, 2, 3, 4])):
        rng.choice([_set_value, _set_value, _set_value, _change_structure, _shift_number, _damage_text])(coco, rng)
    text = bytearray(json.dumps(coco, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"))
    if rng.random() < 0.15:
        _damage_bytes(text, rng)
    return bytes(text)


def _places(value: Any, rng: random.Random) -> list[tuple[Any, Any]]:
    """(container, key) of all values below a value, in random order."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        item = pending.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item)))
        found += [(item, key) for key in keys]
        pending += [item[key] for key in keys if isinstance(item[key], (dict, list)) and len(item[key]) < 100]
    rng.shuffle(found)
    # few deep numbers, and as many names and lists
    return sorted(found, key=lambda place: isinstance(place[0], list) and rng.random() < 0.7)


def _set_value(coco: Coco, rng: random.Random) -> None:
    container, key = rng.choice(_places(coco, rng)[:40])
    container[key] = copy.deepcopy(rng.choice(VALUES))


def _shift_number(coco: Coco, rng: random.Random) -> None:
    numbers = [(c, k) for c, k in _places(coco, rng) if type(c[k]) in (int, float)]
    if numbers:
        container, key = numbers[0]
        container[key] = container[key] * rng.choice([-1, 0.001, 1.7, 100, 1e5]) + rng.choice([0, 1, -3, 0.4])


def _change_structure(coco: Coco, rng: random.Random) -> None:
    container, key = rng.choice(_places(coco, rng)[:40])
    action = rng.randrange(4)
    if action == 0:
        del container[key]
    elif action == 1 and isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
    elif action == 2:
        other, place = rng.choice(_places(coco, rng))
        container[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(container[key])
    else:
        container[key] = [copy.deepcopy(container[key])] * rng.choice([1, 2, 6])


def _damage_text(coco: Coco, rng: random.Random) -> None:
    texts = [(c, k) for c, k in _places(coco, rng) if isinstance(c[k], str) and c[k]]
    texts = [place for place in texts if place[1] == "counts"] or texts
    if texts:
        container, key = texts[0]
        text = list(container[key])
        for _ in range(rng.choice([1, 2, 8])):
            text[rng.randrange(len(text))] = chr(rng.choice([rng.randrange(32, 127), rng.randrange(300)]))
        container[key] = "".join(text)


def _damage_bytes(text: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(text))
    action = rng.randrange(4)
    if action == 0:
        del text[place:]
    elif action == 1:
        del text[place : place + rng.choice([1, 2, 30, 500])]
    elif action == 2:
        text[place] = rng.randrange(256)
    else:
        text[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 3, 10])))
