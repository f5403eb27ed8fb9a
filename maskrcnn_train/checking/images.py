"""Decodes every image file: which are unusable, which are in two splits, which does no JSON list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from maskrcnn_train.checking.advice import split_again
from maskrcnn_train.checking.findings import Finding, Severity
from maskrcnn_train.checking.reading import bad_image_answer
from maskrcnn_train.data.duplicates import find_near
from maskrcnn_train.data.scanning import ImageFacts, scan_images
from maskrcnn_train.data.sources import SUFFIXES
from maskrcnn_train.data.splits.splitting import Split

Pairs = list[tuple[int, int]]
Names = list[tuple[str, str]]  # split and file name of each image


def check_images(
    splits: dict[str, Split], *, on_bad_image: str, workers: int, distance: int, progress: Callable[[int, int], None]
) -> list[Finding]:
    """Decode all images in parallel processes. distance: bits in which the perceptual hash of a copy may differ."""
    images = [(split, row) for split in splits.values() for row in split.rows.tolist()]
    files = [(split.images / split.index.file_name(row), split.index.size(row)) for split, row in images]
    facts = scan_images(files, workers, progress)
    findings = []
    for split in splits.values():
        own = [
            (split.index.file_name(row), fact)
            for (other, row), fact in zip(images, facts, strict=True)
            if other is split
        ]
        findings += _unusable(split.name, own, on_bad_image)
    findings += _unlisted(splits)
    names = [(split.name, split.index.file_name(row)) for split, row in images]
    again = split_again(splits, "duplicates=true") if "train" in splits else "delete one of each"
    return [*findings, *find_leaks(names, [path for path, _ in files], facts, distance, again)]


def _unusable(split: str, images: list[tuple[str, ImageFacts]], on_bad_image: str) -> list[Finding]:
    severity, override = bad_image_answer(on_bad_image)
    findings = []
    for wrong_size, kind, what, fix in (
        (False, "image-unreadable", "image file cannot be decoded", "replace the files, or leave the images out"),
        (True, "image-size-differs", "picture has another size than the JSON says", "put back the annotated picture"),
    ):
        faulty = [(name, fact.fault) for name, fact in images if fact.fault and fact.wrong_size == wrong_size]
        if faulty:
            names = [name for name, _ in faulty]
            fix = f"{fix}; first: {_reason(str(faulty[0][1]))}"
            findings.append(Finding(severity, kind, what, split, "image", names, override, fix))
    return findings


def _reason(fault: str) -> str:
    """An ImageError's message without the folder and without the advice, which the finding gives."""
    return Path(fault.split("; ")[0]).name


def _unlisted(splits: dict[str, Split]) -> list[Finding]:
    """Pictures beside the training images that no JSON names."""
    if "train" not in splits:
        return []
    root = splits["train"].images
    sharing = [split.index for split in splits.values() if split.images == root]
    listed = {index.file_name(row) for index in sharing for row in range(index.num_images)}
    folders = [folder for name in {Path(name).parent for name in listed} if (folder := root / name).is_dir()]
    files = [path for folder in folders for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    names = sorted({path.relative_to(root).as_posix() for path in files} - listed)
    if not names:
        return []
    what, fix = "pictures in the folder that no JSON lists", "annotate them, or list them as empty images"
    return [Finding("advice", "image-unlisted", what, "train", "image", names, fix=fix)]


# ---------------------------------------------------------------- the same picture twice


def find_leaks(names: Names, files: list[Path], facts: list[ImageFacts], distance: int, again: str) -> list[Finding]:
    """Pictures that are in two splits, or twice in one. again: how to cut the data so that they are not."""
    usable = [row for row, fact in enumerate(facts) if fact.fault is None]
    if not usable:
        return []
    hashes = np.frombuffer(b"".join(facts[row].looks for row in usable), dtype=np.uint8).reshape(len(usable), -1)
    near = [(usable[first], usable[second]) for first, second in find_near(hashes, distance).tolist()]
    same = _same_content(usable, facts)
    alike = [(first, second) for first, second in near if facts[first].content != facts[second].content]

    def between(pairs: Pairs) -> Pairs:
        return [(first, second) for first, second in pairs if names[first][0] != names[second][0]]

    def within(split: str) -> Pairs:  # one file that is listed twice is a fault of the JSON, found there
        return [(a, b) for a, b in same if names[a][0] == names[b][0] == split and files[a] != files[b]]

    twice, delete = "the same picture twice in a split", "delete one of each"
    return [
        *_leak("error", "leak", "the same picture in two splits", names, between(same), again),
        *_leak("warning", "leak-similar", "nearly the same picture in two splits", names, between(alike), again),
        *(
            finding
            for split in dict.fromkeys(split for split, _ in names)
            for finding in _leak("warning", "picture-twice", twice, names, within(split), delete)
        ),
    ]


def _same_content(usable: list[int], facts: list[ImageFacts]) -> Pairs:
    """Each file with the first of the same bytes."""
    first: dict[bytes, int] = {}
    pairs = [(first.setdefault(facts[row].content, row), row) for row in usable]
    return [(other, row) for other, row in pairs if other != row]


def _leak(severity: Severity, kind: str, what: str, names: Names, pairs: Pairs, fix: str) -> list[Finding]:
    if not pairs:
        return []
    items = [f"{names[a][0]}/{names[a][1]} = {names[b][0]}/{names[b][1]}" for a, b in pairs]
    splits = sorted({names[row][0] for pair in pairs for row in pair})
    return [Finding(severity, kind, what, "+".join(splits), "pair", items, fix=fix)]
