"""Feature maps of several levels, and their pixels as rows of one matrix."""

from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor


class Pyramid(list[Tensor]):
    """Maps [N, C, H, W] of a batch, one for each level, the largest first."""

    @cached_property
    def rows(self) -> Tensor:
        """All pixels [R + 1, C], level by level, image by image, row by row; the last row is zero.

        Made once, for the RPN and for all pooling: one copy, and one gradient back to the maps, whatever mode the first
        that asks for them is in.
        """
        with torch.inference_mode(False), torch.set_grad_enabled(any(level.requires_grad for level in self)):
            pixels = [level.permute(0, 2, 3, 1).flatten(0, 2) for level in self]  # no copy in channels_last
            return torch.cat([*pixels, pixels[0].new_zeros((1, pixels[0].shape[1]))])

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each level."""
        return [(level.shape[2], level.shape[3]) for level in self]

    @property
    def counts(self) -> list[int]:
        """Rows of each level."""
        return [level.numel() // level.shape[1] for level in self]

    @property
    def starts(self) -> list[int]:
        """The first row of each level, and the row of zeros."""
        return list(accumulate(self.counts, initial=0))
