"""Runs an exported file as its users will: from an image to detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_train.exporting.files import without_exporter_noise
from maskrcnn_train.structures.detections import Detections

Runtime = Callable[[NDArray[np.uint8]], Detections]  # of an image uint8 [H, W, 3]; classes and pasting aren't known


def open_onnx(path: Path) -> Runtime:
    """The file in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its notes on shapes that it cannot infer say nothing to a person
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[np.uint8]) -> Detections:
        return _detections([torch.from_numpy(output) for output in session.run(None, {"image": image})], image)

    return run


def open_torchscript(path: Path) -> Runtime:
    """The file in torch's own interpreter, on the CPU."""
    with without_exporter_noise():
        module = torch.jit.load(str(path), map_location="cpu")

    def run(image: NDArray[np.uint8]) -> Detections:
        with torch.inference_mode():
            return _detections(module(torch.from_numpy(np.array(image))), image)

    return run


def _detections(outputs: Sequence[Tensor], image: NDArray[np.uint8]) -> Detections:
    """boxes, labels, scores and, with a mask head, masks: [N, 1, M, M] inside boxes, or pasted uint8 [N, H, W]."""
    boxes, labels, scores, *masks = outputs
    found = Detections(boxes, labels, scores, (image.shape[0], image.shape[1]))
    if not masks:
        return found
    if masks[0].dim() == 4:
        return replace(found, probabilities=masks[0])
    return replace(found, pasted=[(0, 0, mask.numpy()) for mask in masks[0]])
