"""What is the same from one step to the next, kept: a GPU would launch it each time.

A copy of the model makes its own. Threads may share a model: each returns what it found or made, not what is kept then.
"""

from collections.abc import Callable, Hashable, Sequence
from operator import is_
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A value that is made again when what it follows from has changed.

    Only for constants: a CUDA graph that was captured with a value goes on reading it.
    """

    def __init__(self) -> None:
        self.state: tuple[Hashable, Sequence[Tensor], Value] | None = None

    def __getstate__(self) -> dict[str, None]:
        return {"state": None}

    def get(self, key: Hashable, sources: Sequence[Tensor], make: Callable[[], Value]) -> Value:
        """The value that `make` gave for this key and these sources as they are now."""
        key = key, tuple(each._version for each in sources if not each.is_inference())
        state = self.state
        if state is None or state[0] != key or not all(map(is_, state[1], sources)):
            with torch.inference_mode(False), torch.no_grad():
                self.state = state = key, sources, make()
        return state[2]


class KeptByShape(Generic[Value]):
    """The `most` values that were made last, each for one shape of batches, or one device."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.values: dict[Hashable, Value] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"most": self.most, "values": {}}

    def get(self, shape: Hashable, make: Callable[[], Value]) -> Value:
        value = self.values.get(shape)
        if value is None:
            value = self.values[shape] = make()
            for oldest in list(self.values)[: -self.most]:
                self.values.pop(oldest, None)
        return value
