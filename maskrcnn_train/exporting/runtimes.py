"""Runs an exported file as its users will: an image in, detections out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_train.exporting.files import without_exporter_noise
from maskrcnn_train.exporting.metadata import OUTPUTS

Output = dict[str, Tensor]  # boxes, labels, scores, masks, as the model gives them
Runtime = Callable[[NDArray[np.uint8]], Output]


def open_onnx(path: Path) -> Runtime:
    """The file in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its notes on shapes that it cannot infer say nothing to a person
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[np.uint8]) -> Output:
        found = session.run(None, {"image": image})
        return {name: torch.from_numpy(value) for name, value in zip(OUTPUTS, found, strict=False)}

    return run


def open_torchscript(path: Path) -> Runtime:
    """The file in torch's own interpreter, on the CPU."""
    with without_exporter_noise():
        module = torch.jit.load(str(path), map_location="cpu")

    def run(image: NDArray[np.uint8]) -> Output:
        with torch.inference_mode():
            found = module(torch.from_numpy(np.array(image)))
        return dict(zip(OUTPUTS, found, strict=False))

    return run
