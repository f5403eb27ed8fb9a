"""Finds pictures that are the same or nearly the same, by a perceptual hash."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskrcnn_train.structures.arrays import Ints

Hashes = NDArray[np.uint8]

HASH_BYTES = 16
_BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
_CHUNK = 2_000_000  # pairs compared at a time


def perceptual_hash(image: Image.Image) -> bytes:
    """128 bits: where a 9 x 9 grey copy grows brighter, to the right and downwards (dHash in both directions).

    Scaling, compression and small colour changes flip few of them.
    """
    grey = np.asarray(image.convert("L").resize((9, 9), Image.Resampling.BOX), dtype=np.int16)
    right, down = grey[:8, 1:] > grey[:8, :-1], grey[1:, :8] > grey[:-1, :8]
    return np.packbits(np.stack((right, down))).tobytes()


def find_near(hashes: Hashes, distance: int) -> Ints:
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
            near = _BITS_SET[unique[left] ^ unique[right]].sum(axis=1) <= distance
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
    limits = np.arange(_CHUNK, total.max(initial=-_CHUNK) + _CHUNK, _CHUNK)
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
