"""The graph's resize and pasting: equal to what training and `predict` do."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import paste_full
from torch import Tensor
from torch.onnx.operators import shape_as_tensor

from maskrcnn_train.data import transforms
from maskrcnn_train.data.channels import ChannelImage
from maskrcnn_train.exporting.files import without_exporter_noise
from maskrcnn_train.exporting.pasting import MaskPaster
from maskrcnn_train.exporting.resizing import DeepResize, PillowResize, resized_size
from maskrcnn_train.structures.pasting import MaskPasting

SIZES = [(50, 70), (64, 64), (333, 517), (1, 7), (900, 411), (129, 1027), (411, 900), (1200, 333), (2, 500)]


class Resizer(torch.nn.Module):
    def __init__(self, min_size: int, max_size: int) -> None:
        super().__init__()
        self.limits = min_size, max_size
        self.resize = PillowResize()

    def forward(self, image: Tensor) -> Tensor:
        return self.resize(image, resized_size(shape_as_tensor(image)[:2], *self.limits))


@pytest.mark.parametrize("limits", [(64, 96), (320, 500)])
def test_the_graph_resizes_to_the_last_bit_as_training_does(limits: tuple[int, int]) -> None:
    import onnxruntime

    rng = np.random.default_rng(0)
    example = torch.from_numpy(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    content = io.BytesIO()
    with without_exporter_noise():
        traced = torch.jit.trace(Resizer(*limits), (example,), check_trace=False)
        torch.onnx.export(
            Resizer(*limits),
            (example,),
            content,
            dynamo=False,
            input_names=["image"],
            output_names=["pixels"],
            dynamic_axes={"image": {0: "height", 1: "width"}},
        )
    session = onnxruntime.InferenceSession(content.getvalue())
    for height, width in SIZES:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        size = transforms.resized_size((height, width), *limits)
        expected = np.asarray(transforms.Geometry((height, width), size, size).resize(Image.fromarray(image)))
        assert np.array_equal(traced(torch.from_numpy(image)).numpy(), expected), (height, width)
        assert np.array_equal(session.run(None, {"image": image})[0], expected), (height, width)


@pytest.mark.parametrize("rule", ["integer", "continuous"])
@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_the_graph_pastes_masks_as_the_model_does(rule: str, threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    size = (90, 130)
    corners = torch.rand((12, 2, 2), generator=generator) * torch.tensor([130.0, 90])
    boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1)
    masks = torch.rand((12, 28, 28), generator=generator)
    with without_exporter_noise():
        found = MaskPaster(MaskPasting(threshold, rule))(masks, boxes, torch.tensor(size))
    expected = paste_full(masks[:, None], boxes, size, MaskPasting(threshold, rule))
    assert found.shape == expected.shape
    assert int((found != expected).sum()) <= 2  # a pixel at the threshold itself


def test_no_mask_pastes_to_no_picture() -> None:
    with without_exporter_noise():
        paster = MaskPaster(MaskPasting(0.5, "integer"))
        assert paster(torch.zeros(0, 28, 28), torch.zeros(0, 4), torch.tensor([5, 9])).shape == (0, 5, 9)


def test_the_graph_resizes_16_bits_as_training_does_but_for_roundings() -> None:
    rng = np.random.default_rng(0)
    limits = (64, 96)
    with without_exporter_noise():
        deep = DeepResize()
        example = torch.from_numpy(rng.integers(0, 65536, (40, 60, 5), dtype=np.uint16))
        traced = torch.jit.trace(lambda image: deep(image, resized_size(shape_as_tensor(image)[:2], *limits)), example)
    for height, width in SIZES:
        values = rng.integers(0, 65536, (height, width, 5), dtype=np.uint16)
        size = transforms.resized_size((height, width), *limits)
        expected = np.asarray(transforms.Geometry((height, width), size, size).resize(ChannelImage.of(values)))
        off = np.abs(traced(torch.from_numpy(values)).numpy() - expected)
        assert off.max() <= 1
        assert (off > 0).mean() < 1e-3
