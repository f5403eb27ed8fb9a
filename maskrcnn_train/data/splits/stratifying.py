"""Cuts images into parts with similar shares of every class and of crowded images.

Used for `data.split.fractions` and by the `split` command.
"""

from collections.abc import Sequence

import numpy as np

from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.structures.arrays import Floats, Ints

SWAPPED, ROUNDS = 400, 3  # units tried for an exchange, and how often each
CROWDING = (0.25, 0.5, 0.75)  # quantiles of objects an image between which images count as equally crowded


def count_objects(index: AnnotationIndex, labels: Ints, num_classes: int) -> Ints:
    """Objects of each class in each image, crowd regions aside: int64 [M, num_classes]. Label 0 counts nowhere."""
    single = ~np.asarray(index.crowd) & (labels > 0)
    cells = index.image_rows[single] * num_classes + labels[single] - 1
    return np.bincount(cells, minlength=index.num_images * num_classes).reshape(index.num_images, num_classes)


def stratify(
    counts: Ints, fractions: Sequence[float], seed: int, groups: Ints | None = None, *, favour_first: bool = True
) -> list[Ints]:
    """Cut images into parts with similar shares of every class and of crowded images; returns sorted rows of each part.

    counts: int64 [M, K], objects of each class in each image. groups: int64 [M]; images with one number stay together.
    favour_first: the first image of every class goes to the first part, the one to train on.
    Units (groups, or single images) are dealt out one by one: those with the rarest class first, large before small,
    each to the part whose shares it improves most (iterative stratification, Sechidis et al. 2011). Then units are
    exchanged while that helps.
    """
    rng = np.random.default_rng(seed)
    groups = np.arange(len(counts)) if groups is None else groups
    _, unit_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    columns = np.zeros((len(sizes), counts.shape[1] + len(CROWDING) + 1))
    np.add.at(columns, unit_of, _columns(counts))
    totals = columns.sum(axis=0)
    expected = np.outer(np.asarray(fractions) / sum(fractions), totals)
    weights = 1 / np.where(expected > 0, expected * totals, np.inf)  # chi-square of each class, all classes alike
    room = _part_sizes(len(counts), fractions).astype(np.float64)
    filled = np.zeros_like(expected)
    part_of = np.zeros(len(sizes), dtype=np.int64)
    for unit in _order(columns, counts.shape[1], rng).tolist():
        own = columns[unit]
        new_class = bool(((own > 0) & (filled[0] == 0))[: counts.shape[1]].any())
        if favour_first and new_class and room[0] > 0:
            part = 0
        else:
            growth = (own * (2 * (filled - expected) + own) * weights).sum(axis=1)
            part = int(np.argmin(np.where((room > 0) | (room <= 0).all(), growth, np.inf)))
        part_of[unit] = part
        filled[part] += own
        room[part] -= sizes[unit]
    sample = rng.permutation(len(sizes))[:SWAPPED]
    _swap(part_of, columns, sizes, filled, expected, weights, sample, counts.shape[1] if favour_first else 0)
    return [np.flatnonzero(part_of[unit_of] == part) for part in range(len(fractions))]


def _swap(
    parts: Ints, units: Floats, sizes: Ints, filled: Floats, expected: Floats, weights: Floats, sample: Ints, kept: int
) -> None:
    """Exchange units of equal size between parts where that brings both nearer to their shares, in place.

    sample: the units that are tried. kept: number of first columns that must not become empty in the first part.
    """
    for unit in np.tile(sample, ROUNDS).tolist():
        here = parts[unit]
        others = sample[(parts[sample] != here) & (sizes[sample] == sizes[unit])]
        if not len(others):
            continue
        gained = units[others] - units[unit]
        error, there = filled - expected, parts[others]
        growth = (gained * (gained + 2 * error[here]) * weights[here]).sum(axis=1)
        growth += (gained * (gained - 2 * error[there]) * weights[there]).sum(axis=1)
        best = int(np.argmin(growth))
        after = filled.copy()
        after[here] += gained[best]
        after[there[best]] -= gained[best]
        if growth[best] < -1e-12 and not ((filled[0] > 0) & (after[0] <= 0))[:kept].any():
            parts[unit], parts[others[best]] = there[best], here
            filled[:] = after


def _columns(counts: Ints) -> Floats:
    """What is shared out: objects of each class, and images of each degree of crowding: float64 [M, K + 4]."""
    objects = counts.sum(axis=1)
    edges = np.quantile(objects, CROWDING) if len(objects) else np.zeros(len(CROWDING))
    crowding = np.eye(len(CROWDING) + 1)[np.searchsorted(edges, objects, side="left")]
    return np.concatenate([counts, crowding], axis=1)


def _order(columns: Floats, num_classes: int, rng: np.random.Generator) -> Ints:
    """Units ordered by the rarest class they show, then by their objects of it, ties at random."""
    shown = columns[:, :num_classes] > 0
    rarity = np.argsort(np.argsort(shown.sum(axis=0), kind="stable"))
    rank = np.where(shown, rarity, num_classes).min(axis=1, initial=num_classes)
    rarest = np.argsort(rarity)[np.minimum(rank, max(num_classes - 1, 0))] if num_classes else np.zeros_like(rank)
    amount = np.where(rank < num_classes, columns[np.arange(len(columns)), rarest], 0)
    return np.lexsort((rng.random(len(columns)), -amount, rank))


def _part_sizes(count: int, fractions: Sequence[float]) -> Ints:
    """Whole numbers of images that add up to `count`, at least one for each part that can have one."""
    ends = np.round(np.cumsum(fractions) / sum(fractions) * count).astype(np.int64)
    sizes = np.diff(np.concatenate([[0], ends]))
    for part in np.flatnonzero(sizes == 0):
        if sizes.max() > 1:
            sizes[np.argmax(sizes)] -= 1
            sizes[part] = 1
    return np.asarray(sizes)
