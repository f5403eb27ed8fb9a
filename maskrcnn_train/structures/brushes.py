"""Label Studio's brushes: the bytes of a picture in runs, packed to bits, as rle-pack of @thi.ng/umbrella does it.

32 bits: the number of values; 5: bits of a value, less 1; 4 times 4: bits of each of four lengths, less 1. Then come
blocks: a bit that is 1 for a run, 2 bits that choose the length's size, the length less 1, and one value for a run,
else one for each.
"""

from collections.abc import Sequence

import numpy as np

from maskrcnn_train.structures.arrays import Bytes


class _Bits:
    def __init__(self, packed: Sequence[int]) -> None:
        self.text = (np.unpackbits(np.array(packed, dtype=np.uint8)) + np.uint8(ord("0"))).tobytes().decode()
        self.place = 0

    def take(self, count: int) -> int:
        self.place += count
        if self.place > len(self.text):
            raise ValueError("a brush that ends too soon")
        return int(self.text[self.place - count : self.place], 2)


def unpack(packed: Sequence[int], total: int) -> Bytes:
    """The values of a brush, uint8 [total].

    Raises ValueError, TypeError or OverflowError if they are not as many, or not so packed.
    """
    bits = _Bits(packed)
    if bits.take(32) != total:
        raise ValueError("a brush of another picture")
    width = bits.take(5) + 1
    sizes = [bits.take(4) + 1 for _ in range(4)]
    values: list[int] = []
    lengths: list[int] = []
    left = total
    while left > 0:
        is_run, length = bits.take(1), bits.take(sizes[bits.take(2)]) + 1
        values += [bits.take(width)] if is_run else [bits.take(width) for _ in range(length)]
        lengths += [length] if is_run else [1] * length
        left -= length
    if left:
        raise ValueError("a brush of more values than it says")
    return np.repeat(np.array(values, dtype=np.uint8), lengths)
