"""Train, tune and ship Mask R-CNN on your own COCO-format data.

The names below are resolved on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load_config": "settings.compose",
    "build_loaders": "data.loading",
    "build_model": "model.mask_rcnn",
    "training_step": "engine.step",
    "train": "train",
    "Predictor": "prediction.predictor",
    "load_checkpoint": "prediction.predictor",
    "predict": "prediction.predictor",
}
__all__ = ["__version__", *_HOMES]


class _Package(ModuleType):
    """Keeps a submodule from hiding the function of its name: `train` is the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
