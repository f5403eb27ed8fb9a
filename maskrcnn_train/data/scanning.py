"""Decodes many image files in parallel: whether each can be used, and the hashes that find it again."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from maskrcnn_train.data.duplicates import perceptual_hash
from maskrcnn_train.data.images import ImageError, WrongSize, decode
from maskrcnn_train.settings.errors import UserError

ENOUGH = (96, 96)  # a JPEG is decoded at a fraction of its size, but all of its data is
CHUNK = 16  # images that a process takes at a time


@dataclass(frozen=True)
class ImageFacts:
    """One file. fault: why it cannot be used, None where it can. wrong_size: the fault is another size than the JSON's.

    content: hash of the file's bytes; looks: perceptual hash; both empty where it cannot be read.
    """

    fault: str | None
    wrong_size: bool = False
    content: bytes = b""
    looks: bytes = b""


def scan_images(
    files: Sequence[tuple[Path, tuple[int, int]]], workers: int | None, progress: Callable[[int, int], None]
) -> list[ImageFacts]:
    """Facts of each file in order; `progress` hears how many of how many are done.

    files: (path, (height, width) in the JSON). workers: processes, None: one for each processor; with 1, this one does
    the work. Raises UserError if a process was killed, mostly because memory ran out.
    """
    facts = []
    for found in _scan(files, workers or os.cpu_count() or 1):
        facts.append(found)
        progress(len(facts), len(files))
    return facts


def _scan(files: Sequence[tuple[Path, tuple[int, int]]], workers: int) -> Iterator[ImageFacts]:
    if workers < 2 or len(files) <= CHUNK:
        yield from map(scan_image, files)
        return
    # spawn: a fork would copy the locks of other libraries' threads
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(scan_image, files, chunksize=CHUNK)
        except BrokenProcessPool:
            raise UserError(
                "a process that decodes images was killed, most often because memory ran out; "
                "try again with fewer processes: workers=1"
            ) from None


def scan_image(file: tuple[Path, tuple[int, int]]) -> ImageFacts:
    """Facts of one file."""
    path, expected = file
    try:
        image = decode(path, expected=expected, smallest=ENOUGH)
    except ImageError as error:
        return ImageFacts(str(error), wrong_size=isinstance(error, WrongSize))
    return ImageFacts(None, content=hashlib.sha256(path.read_bytes()).digest(), looks=perceptual_hash(image))
