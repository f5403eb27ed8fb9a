"""Decodes many image files in parallel and says of each whether it can be used, and what is needed to find it again."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from maskrcnn_train.data.duplicates import perceptual_hash
from maskrcnn_train.data.images import ImageError, decode
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


def scan_images(files: Sequence[tuple[Path, tuple[int, int]]], workers: int) -> Iterator[ImageFacts]:
    """Facts of each file in order. files: (path, (height, width) in the JSON). workers: processes; below 2: this one.

    Raises UserError where a process was killed, which happens for want of memory.
    """
    if workers < 2 or len(files) <= CHUNK:
        yield from map(scan_image, files)
        return
    # spawn: a fork would copy the threads' locks of libraries that are loaded by now
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(scan_image, files, chunksize=CHUNK)
        except BrokenProcessPool:
            raise UserError(
                "a process that decodes images was killed, most often by the system for want of memory; "
                "try again with fewer processes: workers=1"
            ) from None


def scan_image(file: tuple[Path, tuple[int, int]]) -> ImageFacts:
    """Facts of one file."""
    path, expected = file
    try:
        image = decode(path, expected=expected, smallest=ENOUGH)
    except ImageError as error:
        return ImageFacts(str(error), wrong_size=_is_readable(path))
    return ImageFacts(None, content=hashlib.sha256(path.read_bytes()).digest(), looks=perceptual_hash(image))


def _is_readable(path: Path) -> bool:
    try:
        decode(path, smallest=ENOUGH)
    except ImageError:
        return False
    return True
