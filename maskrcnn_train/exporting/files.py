"""Writes the files of each format. ONNX and TorchScript come from one trace."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from maskrcnn_train.exporting.detector import TraceableDetector
from maskrcnn_train.exporting.metadata import output_names
from maskrcnn_train.files import written_aside
from maskrcnn_train.settings.schema import TrainConfig

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
    with without_exporter_noise(), written_aside(path) as aside, torch.no_grad():
        traced = torch.jit.trace(detector, (_example(),), check_trace=False)
        torch.jit.save(traced, str(aside), _extra_files={"metadata.json": json.dumps(about)})


def write_onnx(detector: TraceableDetector, path: Path, about: dict[str, Any], config: TrainConfig, opset: int) -> None:
    """The description goes into the file's metadata, a JSON text under each key."""
    import onnx

    names = output_names(config)
    with without_exporter_noise(), written_aside(path) as aside, torch.no_grad():
        torch.onnx.export(
            detector,
            (_example(),),
            str(aside),
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            output_names=names,
            dynamic_axes={"image": {0: "height", 1: "width"}, **{name: {0: "detections"} for name in names}},
        )
        content = onnx.load(aside)
        for key, value in about.items():
            content.metadata_props.add(key=key, value=json.dumps(value))
        onnx.checker.check_model(content)
        onnx.save(content, aside)


def _example() -> torch.Tensor:
    return torch.randint(0, 256, (*EXAMPLE_SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
