from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.data.splits.stratifying import stratify

Ints = NDArray[np.int64]


def scene(num_images: int, seed: int = 0) -> Ints:
    """Objects of six classes, common to rare, in images of which a few are crowded: int64 [M, 6]."""
    rng = np.random.default_rng(seed)
    crowding = rng.lognormal(0, 1, num_images)[:, None]
    return rng.poisson(crowding * [8, 3, 1, 0.3, 0.05, 0.02])


def unevenness(counts: Ints, parts: list[Ints], fractions: list[float]) -> float:
    """Mean relative error of the parts' shares of classes and of all objects."""
    columns = np.concatenate([counts, counts.sum(axis=1, keepdims=True)], axis=1)
    shares = np.array([columns[part].sum(axis=0) for part in parts]) / columns.sum(axis=0)
    goals = np.array(fractions)[:, None]
    return float((np.abs(shares - goals) / goals).mean())


def test_the_seed_decides_the_parts() -> None:
    counts = np.ones((50, 1), dtype=np.int64)
    first, again, other = (stratify(counts, [0.5, 0.5], seed) for seed in (0, 0, 1))
    assert first[0].tolist() == again[0].tolist() != other[0].tolist()


def test_parts_are_complete_disjoint_and_of_the_size_asked_for() -> None:
    parts = stratify(scene(200), [0.7, 0.2, 0.1], 0)
    assert [len(part) for part in parts] == [140, 40, 20]
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))


def test_shares_of_classes_are_far_nearer_than_those_of_random_parts() -> None:
    counts, fractions = scene(300), [0.8, 0.1, 0.1]
    ours = [unevenness(counts, stratify(counts, fractions, seed), fractions) for seed in range(5)]
    drawn = [np.split(np.random.default_rng(seed).permutation(300), [240, 270]) for seed in range(20)]
    random = [unevenness(counts, parts, fractions) for parts in drawn]
    assert max(ours) < min(random)
    assert np.mean(ours) < np.mean(random) / 4


def test_crowded_images_are_in_every_part() -> None:
    counts = np.repeat([1, 10, 30, 90], 25)[:, None]
    for part in stratify(counts, [0.6, 0.2, 0.2], 0):
        shares = [np.mean(counts[part] == number) for number in (1, 10, 30, 90)]
        np.testing.assert_allclose(shares, 0.25, atol=0.06)


def test_every_class_is_in_the_first_part() -> None:
    for seed in range(10):
        counts = scene(100, seed)
        counts[:, 5] = 0
        counts[7, 5] = 1
        first = stratify(counts, [0.3, 0.7], seed)[0]
        assert (counts[first].sum(axis=0) > 0).tolist() == (counts.sum(axis=0) > 0).tolist()


def test_images_of_one_group_stay_together() -> None:
    groups = np.random.default_rng(0).integers(0, 20, 60)
    parts = stratify(np.ones((60, 2), dtype=np.int64), [0.5, 0.5], 0, groups)
    assert not set(groups[parts[0]].tolist()) & set(groups[parts[1]].tolist())
    assert abs(len(parts[0]) - 30) <= 3


def test_a_handful_of_images_leaves_no_part_empty() -> None:
    assert [len(part) for part in stratify(np.ones((3, 1), dtype=np.int64), [0.9, 0.05, 0.05], 0)] == [1, 1, 1]
    assert [len(part) for part in stratify(np.zeros((0, 2), dtype=np.int64), [0.5, 0.5], 0)] == [0, 0]
