"""Decodes many image files in parallel: whether each can be used, and which show (nearly) the same picture."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from maskrcnn_train.data.images import ImageError, WrongSize
from maskrcnn_train.data.pixels import RGB, PixelReader
from maskrcnn_train.data.processes import follow_main, holding_ctrl_c
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Bytes, Ints

ENOUGH = (96, 96)  # a JPEG is decoded at a fraction of its size, but all of its data is
CHUNK = 16  # images that a process takes at a time
MOST_PROCESSES = 61  # of a pool on Windows
HASH_BYTES = 16
BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
PAIRS = 2_000_000  # compared at a time

File = tuple[Path, tuple[int, int]]  # with (height, width) in the JSON


@dataclass(frozen=True)
class ImageFacts:
    """One file. fault: why it cannot be used, None where it can. wrong_size: the fault is another size than the JSON's.

    content: hash of the file's bytes; looks: perceptual hash; both empty where it cannot be read. means, squares: of
    each channel, of values in 0..1 and of their squares; empty for 8-bit R G B.
    """

    fault: str | None
    wrong_size: bool = False
    content: bytes = b""
    looks: bytes = b""
    means: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()


def scan_images(
    files: Sequence[File],
    workers: int | None,
    progress: Callable[[int, int], None],
    reader: PixelReader = RGB,
) -> list[ImageFacts]:
    """Facts of each file in order; `progress` hears how many of how many are done.

    workers: processes, None: one for each processor; with 1, this one does the work. Raises UserError if a process was
    killed, mostly because memory ran out.
    """
    facts = []
    for found in _scan(files, workers or os.cpu_count() or 1, partial(scan_image, reader=reader)):
        facts.append(found)
        progress(len(facts), len(files))
    return facts


def _scan(files: Sequence[File], workers: int, scan: Callable[[File], ImageFacts]) -> Iterator[ImageFacts]:
    if workers < 2 or len(files) <= CHUNK:
        yield from map(scan, files)
        return
    # spawn: a fork would copy the locks of other libraries' threads
    spawn = multiprocessing.get_context("spawn")
    processes = min(workers, MOST_PROCESSES)
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start_process) as pool:
        try:
            with holding_ctrl_c():
                found = pool.map(scan, files, chunksize=CHUNK)
            yield from found
        except BrokenProcessPool:
            raise UserError(
                "a process that decodes images was killed, most often because memory ran out; "
                "try again with fewer processes: workers=1"
            ) from None


def _start_process() -> None:
    follow_main()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C ends the images at hand, too


def scan_image(file: File, reader: PixelReader) -> ImageFacts:
    """Facts of one file."""
    path, expected = file
    try:
        image = reader.read(path, expected=expected, smallest=ENOUGH)
    except ImageError as error:
        return ImageFacts(str(error), wrong_size=isinstance(error, WrongSize))
    means: list[float] = []
    squares: list[float] = []
    if not reader.is_rgb:
        values = np.asarray(image) / np.float64(reader.highest)
        means, squares = values.mean(axis=(0, 1)).tolist(), (values**2).mean(axis=(0, 1)).tolist()
    looks, content = perceptual_hash(reader.show(image)), hashlib.sha256(path.read_bytes()).digest()
    return ImageFacts(None, content=content, looks=looks, means=tuple(means), squares=tuple(squares))


def find_similar(facts: Sequence[ImageFacts], distance: int) -> Ints:
    """Pairs of rows whose pictures differ in at most `distance` bits of their hashes, as in `find_near`."""
    seen = np.array([row for row, fact in enumerate(facts) if fact.fault is None], dtype=np.int64)
    if not len(seen):
        return np.zeros((0, 2), dtype=np.int64)
    hashes = np.frombuffer(b"".join(facts[row].looks for row in seen), dtype=np.uint8).reshape(-1, HASH_BYTES)
    return seen[find_near(hashes, distance)]


def perceptual_hash(image: Image.Image) -> bytes:
    """128 bits: where a 9 x 9 grey copy grows brighter, to the right and downwards (dHash in both directions).

    Scaling, compression and small colour changes flip few of them.
    """
    grey = np.asarray(image.convert("L").resize((9, 9), Image.Resampling.BOX), dtype=np.int16)
    right, down = grey[:8, 1:] > grey[:8, :-1], grey[1:, :8] > grey[:-1, :8]
    return np.packbits(np.stack((right, down))).tobytes()


def find_near(hashes: Bytes, distance: int) -> Ints:
    """Pairs of rows whose hashes differ in at most `distance` bits: int64 [P, 2], first < second.

    hashes: uint8 [N, 16]. Rows with the same hash are paired with the first of them, and only that one with others.
    Near hashes agree in at least one of `distance + 1` pieces, so only rows that share a piece are compared.
    """
    unique, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    rows = np.arange(len(hashes))
    same = np.flatnonzero(first[inverse.reshape(-1)] != rows)
    pairs = [np.stack((first[inverse.reshape(-1)[same]], same), axis=1)]
    bits = np.unpackbits(unique, axis=1)
    for piece in np.array_split(np.arange(bits.shape[1]), min(distance, 127) + 1):
        _, key = np.unique(np.packbits(bits[:, piece], axis=1), axis=0, return_inverse=True)
        for left, right in _pairs_of_equal(key.reshape(-1)):
            near = BITS_SET[unique[left] ^ unique[right]].sum(axis=1) <= distance
            pairs.append(np.stack((first[left[near]], first[right[near]]), axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0).reshape(-1, 2).astype(np.int64)


def _pairs_of_equal(keys: Ints) -> Iterator[tuple[Ints, Ints]]:
    """All pairs of rows with the same key, in pieces of limited size."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(keys)))
    ends = np.repeat(starts + lengths, lengths)
    later = ends - np.arange(len(keys)) - 1  # how many rows of the same key follow each row
    total = np.cumsum(later)
    limits = np.arange(PAIRS, total.max(initial=-PAIRS) + PAIRS, PAIRS)
    begin = 0
    for end in np.unique(np.minimum(np.searchsorted(total, limits) + 1, len(keys))).tolist():
        counts = later[begin:end]
        left = np.repeat(np.arange(begin, end), counts)
        right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield order[left], order[right]
        begin = end


def group_pairs(count: int, pairs: Ints) -> Ints:
    """A number for each of `count` rows, the same for rows that pairs connect: int64 [count], its smallest row."""
    group = np.arange(count)
    while True:
        smallest = group.copy()
        np.minimum.at(smallest, pairs[:, 0], group[pairs[:, 1]])
        np.minimum.at(smallest, pairs[:, 1], group[pairs[:, 0]])
        smallest = smallest[smallest]
        if (smallest == group).all():
            return group
        group = smallest
