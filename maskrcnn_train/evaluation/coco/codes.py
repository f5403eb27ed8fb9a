"""Reads COCO's compressed run-length codes of many masks at once, without trusting them.

pycocotools decodes damaged codes silently, or never returns. The code is a variable-length one, 5 bits a character,
low bits first, each run from the fourth on being the difference to the run two before (rleToString in cocoapi's
maskApi.c).
"""

from collections.abc import Sequence

import numpy as np

from maskrcnn_train.structures.arrays import Bytes, Flags, Ints

DAMAGED = -1
MOST_CHARACTERS = 12  # of one number: 60 bits


def code_areas(counts: Sequence[str], pixels: Sequence[int]) -> Ints:
    """Pixels set in each mask: int64 [N], or DAMAGED where a code doesn't describe exactly its number of pixels.

    >>> code_areas(["262"], [10])
    array([6])
    """
    if not counts:
        return np.zeros(0, np.int64)
    try:
        text = np.frombuffer("".join(counts).encode("ascii"), np.uint8)
    except UnicodeEncodeError:
        plain = [code if code.isascii() else "" for code in counts]
        return code_areas(plain, pixels)
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    ends = np.flatnonzero((text - 48) & 32 == 0)
    borders = np.cumsum(lengths)
    numbers = np.diff(np.searchsorted(ends, borders), prepend=0)  # how many numbers each code has
    damaged = _odd_characters(text, borders, lengths)
    damaged |= numbers == 0
    if damaged.any():  # what is left out can't spill into its neighbours
        whole = np.flatnonzero(~damaged).tolist()
        areas = np.full(len(counts), DAMAGED)
        areas[whole] = code_areas([counts[i] for i in whole], [pixels[i] for i in whole])
        return areas
    runs, parity = _runs(_numbers(text, ends), numbers)
    firsts = np.cumsum(numbers) - numbers
    totals = np.add.reduceat(runs, firsts)
    areas = np.add.reduceat(runs * parity, firsts)
    negative = np.minimum.reduceat(runs, firsts) < 0
    areas[negative | (totals != np.asarray(pixels))] = DAMAGED
    return areas


def _odd_characters(text: Bytes, borders: Ints, lengths: Ints) -> Flags:
    """Codes with a character outside the alphabet, or that end in the middle of a number: bool [N]."""
    damaged = np.zeros(len(lengths), bool)
    outside = np.flatnonzero((text < 48) | (text > 111))
    damaged[np.searchsorted(borders, outside, side="right")] = True
    filled = np.flatnonzero(lengths)
    damaged[filled[((text[borders[filled] - 1] - 48) & 32) > 0]] = True
    return damaged


def _numbers(text: Bytes, ends: Ints) -> Ints:
    """The signed numbers of the text: int64 [len(ends)], each ending where `ends` says."""
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    values: Ints = (text[starts].astype(np.int64) - 48) & 31
    for digit in range(1, min(int(lengths.max(initial=0)), MOST_CHARACTERS)):
        longer = np.flatnonzero(lengths > digit)
        values[longer] += ((text[starts[longer] + digit].astype(np.int64) - 48) & 31) << (5 * digit)
    negative = np.flatnonzero((text[ends] - 48) & 16)
    values[negative] -= np.int64(1) << np.minimum(5 * lengths[negative], 60)
    values[lengths > MOST_CHARACTERS] = -(1 << 62)  # makes its run negative
    return values


def _runs(numbers: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Run lengths from the numbers of all codes, and whether each run is one of ones: int64 [sum(counts)] each.

    Within a code the runs of zeros after the first, and the runs of ones, are two chains of differences.
    """
    firsts = np.cumsum(counts) - counts
    position = np.arange(len(numbers)) - np.repeat(firsts, counts)
    parity = position & 1
    runs = numbers.copy()
    for start in (1, 2):
        chain = np.flatnonzero((parity == start & 1) & (position >= start))
        sums = np.cumsum(numbers[chain])
        heads = np.flatnonzero(position[chain] == start)
        before = np.where(heads > 0, sums[heads - 1], 0)
        runs[chain] = sums - np.repeat(before, np.diff(heads, append=len(chain)))
    return runs, parity
