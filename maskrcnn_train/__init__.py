"""Train, tune and ship Mask R-CNN on your own COCO-format data.

The names below are resolved on first use, so that importing the package does not import torch.
"""

import os
import signal
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


# Python is about to run a command: until `cli` answers signals, Ctrl-C ends it without a traceback of imports
if sys.argv[:1] == ["-m"] and any(word.split(".")[0] == __name__ for word in sys.orig_argv):
    for _signal in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(_signal) is not signal.SIG_IGN:
            signal.signal(_signal, lambda number, _: os._exit(128 + number))


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
