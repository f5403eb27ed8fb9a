"""Square tiles that cover a large image. Without torch."""

import math
from dataclasses import dataclass

from maskrcnn_train.settings.errors import UserError

Window = tuple[int, int, int, int]  # x0 y0 x1 y1, x1 and y1 exclusive, pixels of the image
Tile = tuple[Window, tuple[int, int]]  # and (height, width) of that image


@dataclass(frozen=True)
class Tiles:
    """size: side of the square tiles, pixels of the image. overlap: share of a side that the next tile sees too.

    Raises UserError for sizes below 1 and for shares that are not from 0 to below 1.
    """

    size: int
    overlap: float

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.overlap < 1:
            raise UserError(f"tiles of {self.size} pixels that overlap by {self.overlap}: give size=1024, overlap=0.2")

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """Windows that cover an image of (height, width), evenly spread, row by row; one where it is no larger than a
        tile."""
        rows, columns = (self._spans(length) for length in size)
        return [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]

    def _spans(self, length: int) -> list[tuple[int, int]]:
        if length <= self.size:
            return [(0, length)]
        step = max(1.0, self.size * (1 - self.overlap))
        count = math.ceil((length - self.size) / step) + 1
        starts = [round(index * (length - self.size) / (count - 1)) for index in range(count)]
        return [(start, start + self.size) for start in starts]


def is_last(tile: Tile) -> bool:
    """Whether a tile is the last of its image: the one at the bottom and right."""
    (_, _, x1, y1), size = tile
    return (y1, x1) == size
