"""The files of each format, written from one trace, and run as their users will: from an image to detections."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from maskrcnn_train.exporting.detector import TraceableDetector
from maskrcnn_train.exporting.metadata import output_names
from maskrcnn_train.files import written_aside
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.detections import Detections

Image = NDArray[np.uint8 | np.uint16]  # [H, W, C]
Runtime = Callable[[Image], Detections]  # classes and pasting aren't known
EXAMPLE_SIZE = (96, 128)  # height, width of the image that is traced; the trace holds for all
# torch's newer exporters fail on the model's data-dependent shapes, so these stay in use
NOISE: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"`torch\.jit\.\w+` is deprecated"),
    (TracerWarning, "Converting a tensor to a Python boolean"),
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed"),
    (UserWarning, "Exporting aten::index operator"),
    (UserWarning, "Constant folding - Only steps=1"),
)


@contextmanager
def without_exporter_noise() -> Iterator[None]:
    """Silences what torch says of its own exporters, nothing else."""
    with warnings.catch_warnings():
        for category, message in NOISE:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


def write_torchscript(detector: TraceableDetector, path: Path, about: dict[str, Any]) -> None:
    """`torch.jit.load` reads it where torchvision is imported; the description is its extra file metadata.json."""
    detector.requires_grad_(False)  # of the file too: else each of its calls keeps all maps for a backward pass
    with without_exporter_noise(), written_aside(path) as aside, torch.no_grad():
        traced = torch.jit.trace(detector, (_example(detector),), check_trace=False)
        torch.jit.save(traced, str(aside), _extra_files={"metadata.json": json.dumps(about)})


def write_onnx(detector: TraceableDetector, path: Path, about: dict[str, Any], config: TrainConfig, opset: int) -> None:
    """The description goes into the file's metadata, a JSON text under each key."""
    import onnx

    names, example = output_names(config), _example(detector)
    if detector.bits == 16:
        example = example.to(torch.int32)  # the exporter doesn't know uint16
    with without_exporter_noise(), written_aside(path) as aside, torch.no_grad():
        torch.onnx.export(
            detector,
            (example,),
            str(aside),
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            output_names=names,
            dynamic_axes={"image": {0: "height", 1: "width"}, **{name: {0: "detections"} for name in names}},
        )
        content = onnx.load(aside)
        if detector.bits == 16:  # the first node converts whichever type it is
            content.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT16
        for key, value in about.items():
            content.metadata_props.add(key=key, value=json.dumps(value))
        onnx.checker.check_model(content)
        onnx.save(content, aside)


def _example(detector: TraceableDetector) -> Tensor:
    size, highest = (*EXAMPLE_SIZE, len(detector.model.pixel_mean)), 2**detector.bits - 1
    values = torch.randint(0, highest + 1, size, generator=torch.Generator().manual_seed(0))
    return values.to(torch.uint8 if detector.bits == 8 else torch.uint16)


# ---------------------------------------------------------------- running


def open_onnx(path: Path) -> Runtime:
    """The file in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its notes on shapes that it cannot infer say nothing to a person
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: Image) -> Detections:
        return _detections([torch.from_numpy(output) for output in session.run(None, {"image": image})], image)

    return run


def open_torchscript(path: Path) -> Runtime:
    """The file in torch's own interpreter, on the CPU."""
    with without_exporter_noise():
        module = torch.jit.load(str(path), map_location="cpu")

    def run(image: Image) -> Detections:
        with torch.inference_mode():
            return _detections(module(torch.from_numpy(np.array(image))), image)

    return run


def _detections(outputs: Sequence[Tensor], image: Image) -> Detections:
    """boxes, labels, scores and, with a mask head, masks: [N, 1, M, M] inside boxes, or pasted uint8 [N, H, W]."""
    boxes, labels, scores, *masks = outputs
    found = Detections(boxes, labels, scores, (image.shape[0], image.shape[1]))
    if not masks:
        return found
    if masks[0].dim() == 4:
        return replace(found, probabilities=masks[0])
    return replace(found, pasted=[(0, 0, mask.numpy()) for mask in masks[0]])
