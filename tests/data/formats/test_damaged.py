"""Damaged labels of every format: one clear line, or a correct read; never a traceback."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_data import Parts, few_shapes, images_of, parts_of, write

from maskrcnn_train.data.formats.masks import bitmap_of
from maskrcnn_train.data.formats.registry import FORMATS
from maskrcnn_train.settings.errors import UserError

NUMBERS = ["-1", "0", "1e9", "1e308", "1e400", "nan", "-inf", "99999999999999999999", "", "x", "null", "[]", "0.5", "7"]
WORDS = [
    "",
    " ",
    "null",
    "{}",
    "[[]]",
    "true",
    "\u00fc" * 300,
    "a\nb",
    "<",
    "&",
    '"',
    "../x.png",
    "C:\\x",
    "\0",
    "polygon",
    "mask",
]


def damage(content: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with one to three faults: other numbers and words, lost and repeated parts, other bytes."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        place = rng.randrange(len(content) + 1)
        action = rng.randrange(6)
        spots = [*re.finditer(rb"-?\d+(\.\d+)?" if action == 0 else rb"[A-Za-z_]{3,}", content)] if action < 2 else []
        if spots:
            spot, values = rng.choice(spots), NUMBERS if action == 0 else WORDS
            content = content[: spot.start()] + rng.choice(values).encode() + content[spot.end() :]
        elif action == 2:
            content = content[:place]
        elif action == 3:
            content = content[:place] + content[place + rng.choice([1, 2, 40]) :]
        elif action == 4:
            content = content[:place] + bytes(rng.randrange(256) for _ in range(rng.choice([1, 4]))) + content[place:]
        else:
            content = content[:place] + content[rng.randrange(len(content) + 1) :]
    return content


def assert_one_line(message: str) -> None:
    assert "\n" not in message
    assert 10 < len(message) < 2000


def read_all(name: str, root: Path) -> str:
    """How far a data set is usable. Raises what a person would see as a traceback."""
    try:
        parts = parts_of(name, root)
    except UserError as error:
        assert_one_line(str(error))
        return "refused"
    for image in (image for images in images_of(parts).values() for image in images):
        for each in image.objects:
            crop = bitmap_of(each, image.size)
            if crop is not None:
                x0, y0, bitmap = crop
                assert min(x0, y0) >= 0
                assert y0 + bitmap.shape[0] <= image.size[0]
                assert x0 + bitmap.shape[1] <= image.size[1]
            assert each.box is not None
            assert np.isfinite(each.box).all()
    return "left out" if any(part.skipped.num_dropped for part in parts[0].values()) else "read"


def run(format_: str, seeds: range, shapes: Parts, folder: Path) -> Counter[str]:
    """Damage and read one file for each seed; how many were usable how far."""
    splits, classes = shapes
    few = {"train": replace(splits["train"], rows=splits["train"].rows[:4]), "val": splits["test"]}
    write((few, classes), format_, folder, tolerance=0.3)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jpg")
    counts: Counter[str] = Counter()
    for seed in seeds:
        rng = random.Random(f"{format_} {seed}")
        path = rng.choice(files)
        sound = path.read_bytes()
        if rng.random() < 0.03:
            path.unlink()
        else:
            path.write_bytes(damage(sound, rng))
        try:
            counts[read_all("auto" if format_ == "coco" or seed % 4 == 0 else format_, folder)] += 1
        except Exception as error:
            raise AssertionError(f"{format_} {seed}: {path}") from error
        finally:
            path.write_bytes(sound)
    return counts


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return few_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.mark.parametrize("format_", FORMATS)
def test_damaged_files_are_read_right_or_refused_in_one_line(format_: str, shapes: Parts, tmp_path: Path) -> None:
    counts = run(format_, range(20), shapes, tmp_path / "out")
    assert counts["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_2000_damaged_files_are_read_right_or_refused_in_one_line(format_: str, shapes: Parts, tmp_path: Path) -> None:
    counts = run(format_, range(100, 400), shapes, tmp_path / "out")
    assert counts["refused"] > 20
    assert counts["read"] + counts["left out"] > 20
