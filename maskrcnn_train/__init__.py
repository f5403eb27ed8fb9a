"""Train, tune and ship Mask R-CNN on your own COCO-format data.

The names below are resolved on first use, so that importing the package does not import torch.
"""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
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


def _start_command(module: str) -> None:
    """Python is about to run `-m module`: answer a name that is no command, and signals until `cli` does."""
    command, folder = module[len(__name__) + 1 :], Path(__file__).parent
    if command == "train":
        sys.exit(_no_command(module, f"python -m {__name__}"))
    if command and not folder.joinpath(*command.split(".")).with_suffix(".py").exists():
        import difflib

        names = sorted(path.stem for path in folder.glob("[a-z]*.py") if path.stem not in ("files", "train"))
        near = difflib.get_close_matches(command, names, n=1) or names
        sys.exit(_no_command(module, f"python -m {__name__}.{', .'.join(near)}"))
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: os._exit(128 + number))


def _no_command(module: str, instead: str) -> int:
    print(f"error: {module} is no command; use {instead}", file=sys.stderr)
    return 2  # as any mistake of a person


if sys.argv[:1] == ["-m"]:
    for _word in sys.orig_argv:
        if _word.split(".")[0] == __name__:
            _start_command(_word)
            break


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
