"""Pillow's bilinear resize as tensor operations, at 8 bits to the last bit, for graphs that take images of any size.

Neither ONNX nor torch has it: Pillow widens its triangle with the scale, works in fixed point, rounds to 8 bits
between columns and rows, and averages whole blocks first where it shrinks much (`reducing_gap`). Written without
Python numbers that depend on the image, so that a trace holds for every height and width.
"""

import torch
from torch import Tensor
from torch.onnx.operators import shape_as_tensor

FRACTION = 1 << 22  # Pillow's fixed point: 32 bits less 8 of the pixel and 2 for overshoot
REDUCING_GAP = 3.0  # as in data/transforms.py
F64 = torch.float64  # of tensors with a dimension: the ONNX exporter takes those without for 32-bit numbers


def resized_size(size: Tensor, min_size: int, max_size: int) -> Tensor:
    """int64 [2] (height, width) of an image of `size` int64 [2]: the rule of the same name in data/transforms.py."""
    sides = size.to(torch.float64)
    shorter, longer = torch.full([1], float(min_size), dtype=F64), torch.full([1], float(max_size), dtype=F64)
    scale = torch.minimum(shorter / sides.amin(0, keepdim=True), longer / sides.amax(0, keepdim=True))
    return (sides * scale + 1e-6).to(torch.int64).clamp(min=1)


class PillowResize(torch.nn.Module):
    """image uint8 [H, W, C], size int64 [2] -> uint8 [h, w, C]: columns, then rows, as data/transforms.py."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = torch.jit.script(reduce_rows)
        self.sum = torch.jit.script(weighted_rows)

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        columns = self._resize_first(image.transpose(0, 1), size[1:])
        return self._resize_first(columns.transpose(0, 1), size[:1])

    def _resize_first(self, pixels: Tensor, length: Tensor) -> Tensor:
        """[N, M, C] -> [length, M, C]."""
        source = shape_as_tensor(pixels)[:1]
        factor = (source.to(F64) / length.to(F64) / REDUCING_GAP).to(torch.int64).clamp(min=1)
        # where the source ends, maybe within its last pixel; Pillow hands it over in 32 bits
        end = (source.to(F64) / factor.to(F64)).to(torch.float32).to(F64)
        reduced = self.reduce(pixels.reshape(pixels.shape[0], -1), factor)
        first, weights = bilinear_weights(shape_as_tensor(reduced)[:1], end, length)
        return self._weighted(reduced, first, weights).reshape(first.shape[0], -1, pixels.shape[2])

    def _weighted(self, rows: Tensor, first: Tensor, weights: Tensor) -> Tensor:
        fixed = (0.5 + weights * FRACTION).to(torch.int32)
        total = self.sum(rows, first, fixed) + FRACTION // 2
        return torch.div(total, FRACTION, rounding_mode="trunc").to(torch.uint8)


class DeepResize(PillowResize):
    """image uint16 [H, W, C], size int64 [2] -> whole numbers float32 [h, w, C].

    16 bits are Pillow's mode F, which it computes in floating point without rounding in between; a value may be off
    by one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reduce = torch.jit.script(mean_rows)

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        return super().forward(image.to(torch.float32), size).round()

    def _weighted(self, rows: Tensor, first: Tensor, weights: Tensor) -> Tensor:
        total: Tensor = self.sum(rows, first, weights)
        return total.to(torch.float32)


def bilinear_weights(source: Tensor, end: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """First source pixel int64 [length] of each target pixel, and its weights float64 [taps, length], whose sum is 1.

    Pillow's precompute_coeffs: a triangle as wide as the scale, at least one pixel, cut at the borders. source,
    length: int64 [1]; end: float64 [1].
    """
    scale = end / length.to(F64)
    support = scale.clamp(min=1.0)
    centers = (torch.arange(length[0]).to(F64) + 0.5) * scale  # type: ignore[call-overload]
    first = (centers - support + 0.5).to(torch.int64).clamp(min=0)
    last = torch.minimum((centers + support + 0.5).to(torch.int64), source)
    taps = torch.arange((support.ceil().to(torch.int64) * 2 + 1)[0])[:, None]  # type: ignore[call-overload]
    distances = ((taps + first).to(F64) - centers + 0.5) * support.reciprocal()
    triangle = (1.0 - distances.abs()).clamp(min=0.0)
    weights = torch.where(taps + first < last, triangle, torch.zeros_like(triangle))
    return first, weights / weights.sum(dim=0)


def weighted_rows(pixels: Tensor, first: Tensor, weights: Tensor) -> Tensor:
    """sum over t of weights[t, m] * pixels[first[m] + t]: [M, R] of [N, R], int64 [M] and [T, M], in the weights' type.

    A loop over taps: all at once would take T times the memory.
    """
    total = torch.zeros([first.shape[0], pixels.shape[1]], dtype=weights.dtype)
    for tap in range(weights.shape[0]):
        rows = torch.clamp(first + tap, max=pixels.shape[0] - 1)
        total = total + pixels.index_select(0, rows).to(weights.dtype) * weights[tap].unsqueeze(1)
    return total


def reduce_rows(pixels: Tensor, factor: Tensor) -> Tensor:
    """Pillow's `Image.reduce`: means of `factor` (int64 [1]) rows of uint8 [N, R], of fewer at the end."""
    if bool(factor.max() > 1):
        first = torch.arange(0, pixels.shape[0], int(factor))
        counts = torch.minimum(factor, pixels.shape[0] - first)
        inside = (torch.arange(int(factor)).unsqueeze(1) < counts).to(torch.int32)
        half = torch.div(counts, 2, rounding_mode="trunc")
        # fixed point again, its factor computed in 32-bit floats as Pillow does
        part = (torch.full([1], 4294967296.0) / (256 * counts).to(torch.float32)).to(torch.int64)
        sums = weighted_rows(pixels, first, inside).to(torch.int64) + half.unsqueeze(1)
        pixels = torch.div(sums * part.unsqueeze(1), 16777216, rounding_mode="trunc").to(torch.uint8)
    return pixels


def mean_rows(pixels: Tensor, factor: Tensor) -> Tensor:
    """`reduce_rows` of float32 [N, R]."""
    if bool(factor.max() > 1):
        first = torch.arange(0, pixels.shape[0], int(factor))
        counts = torch.minimum(factor, pixels.shape[0] - first)
        inside = (torch.arange(int(factor)).unsqueeze(1) < counts).to(torch.float64)
        parts = (torch.full([1], 1.0, dtype=torch.float64) / counts.to(torch.float64)).unsqueeze(1)
        pixels = (weighted_rows(pixels, first, inside) * parts).to(torch.float32)
    return pixels
