"""What is kept from step to step is what would be made anew."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch

from maskrcnn_train.model.kept import Kept, KeptByShape
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.rpn_head import SampledRPNHead


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def by_key(number: int) -> int:
    return KEPT.get(number, [], lambda: number)


def by_shape(number: int) -> int:
    return KEPT_BY_SHAPE.get(number, lambda: number)


KEPT, KEPT_BY_SHAPE = Kept[int](), KeptByShape[int](2)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("get", [by_key, by_shape])
def test_threads_that_need_different_values_each_get_their_own(get: Callable[[int], int]) -> None:
    numbers = [number % 5 + 1 for number in range(20_000)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(get, numbers)) == numbers


def test_a_copy_of_a_head_keeps_nothing_of_the_first() -> None:
    head = SampledRPNHead(4, 3)
    before = len(pickle.dumps(head))
    head.predict_sampled(Pyramid([torch.zeros(1, 4, 64, 64)]), torch.arange(9))
    assert len(pickle.dumps(head)) < 1.1 * before
    assert not deepcopy(head)._kept.values
