"""Runs a command with a fault at one of its phases: `planted_fault.py PHASE FAULT MODULE [ARGUMENT ...]`.

The fault strikes once, as the function that begins the phase is called.
"""

from __future__ import annotations

import functools
import importlib
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

# phase: the function that begins it, and which of its calls the fault strikes
PHASES = {
    "start": ("maskrcnn_train.settings.compose", "load_command_config", 1),
    "data": ("maskrcnn_train.data.splits.splitting", "open_labels", 1),
    "model": ("maskrcnn_train.model.mask_rcnn", "build_backbone", 1),
    "first step": ("maskrcnn_train.engine.loop", "accumulate_gradients", 1),
    "second step": ("maskrcnn_train.engine.loop", "accumulate_gradients", 2),
    "third step": ("maskrcnn_train.engine.loop", "accumulate_gradients", 3),
    "second backward": ("torch", "Tensor.backward", 2),
    "checkpoint": ("torch", "save", 1),
    "writing": ("os", "fsync", 2),  # the second checkpoint is written, but not in its place
    "evaluation": ("maskrcnn_train.model.mask_rcnn", "MaskRCNN.detections", 1),
    "study": ("maskrcnn_train.train", "_write_diagnostics", 1),
    "report": ("maskrcnn_train.train", "report_training", 1),
    "export": ("torch.onnx", "export", 1),
}


def strike(fault: str) -> None:
    """The fault, in this process. The file STRUCK, if named in the environment, keeps the time."""
    if "STRUCK" in os.environ:
        Path(os.environ["STRUCK"]).write_text(str(time.time()))
    if fault in ("SIGKILL", "SIGTERM", "SIGINT"):
        os.kill(os.getpid(), getattr(signal, fault))
    elif fault == "full disk":  # no file may grow past a few bytes from now on; Python ignores SIGXFSZ
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))
    elif fault == "out of memory":
        run_out_of_memory()
    elif fault == "lost worker":
        for child in active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
    elif fault == "lost image":
        for path in Path(os.environ["IMAGES"]).rglob("*.jpg"):
            path.unlink()
    elif fault == "not implemented":
        raise NotImplementedError("no kernel for this device")
    elif fault == "bug":
        list(zip([1], [1, 2], strict=True))
    else:
        raise ValueError(fault)


def run_out_of_memory() -> None:
    """On a GPU the allocator itself says so, and gives nothing any more."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        raise MemoryError
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    torch.empty(2**45, dtype=torch.uint8, device="cuda")


def plant(phase: str, fault: str) -> None:
    """Wrap the function that begins the phase."""
    home, name, wanted = PHASES[phase]
    owner: Any = importlib.import_module(home)
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    whole: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1, 10**6))

    @functools.wraps(whole)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == wanted:
            strike(fault)
        return whole(*args, **kwargs)

    setattr(owner, name, faulty)


if __name__ == "__main__":
    phase, fault, module, *arguments = sys.argv[1:]
    plant(phase, fault)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
