"""What is the same from one step to the next, kept: a GPU would launch it each time."""

from collections.abc import Callable, Hashable, Sequence
from operator import is_
from typing import Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A value that is made again when what it follows from has changed. A copy of the model makes its own.

    Only for constants: a CUDA graph that was captured with a value goes on reading it.
    """

    def __init__(self) -> None:
        self.state: tuple[Hashable, Sequence[Tensor], Value] | None = None

    def __getstate__(self) -> dict[str, None]:
        return {"state": None}

    def get(self, key: Hashable, sources: Sequence[Tensor], make: Callable[[], Value]) -> Value:
        """The value that `make` gave for this key and these sources as they are now."""
        key = key, tuple(each._version for each in sources if not each.is_inference())
        if self.state is None or self.state[0] != key or not all(map(is_, self.state[1], sources)):
            with torch.inference_mode(False), torch.no_grad():
                self.state = key, sources, make()
        return self.state[2]


class KeptByShape(Generic[Value]):
    """The `most` values that were made last, each for one shape of batches, or one device."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.values: dict[Hashable, Value] = {}

    def get(self, shape: Hashable, make: Callable[[], Value]) -> Value:
        if shape not in self.values:
            if len(self.values) == self.most:
                del self.values[next(iter(self.values))]
            self.values[shape] = make()
        return self.values[shape]
