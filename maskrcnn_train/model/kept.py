"""What follows from the shapes of a batch alone, kept for batches of the same shapes."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The last values that were made, by the shapes that they follow from."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.values: dict[Hashable, T] = {}

    def get(self, shapes: Hashable, make: Callable[[], T]) -> T:
        if shapes not in self.values:
            if len(self.values) == self.most:
                del self.values[next(iter(self.values))]
            self.values[shapes] = make()
        return self.values[shapes]
