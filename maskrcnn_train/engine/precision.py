"""The device and precision of a run: the only module that asks what the machine can do."""

import functools
import math
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import nn

from maskrcnn_train.settings.errors import UserError

Model = TypeVar("Model", bound=nn.Module)
MOST_THREADS = 4
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str, local_rank: int = 0, *, key: str = "trainer.device") -> torch.device:
    """`auto`: this rank's GPU if there is one, else the CPU. Raises UserError, naming `key`, for one not there.

    A process that sees one GPU only takes that: some launchers show each process its own.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" or (name == "auto" and count):
        name = "cuda:0" if count == 1 else f"cuda:{local_rank}"
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        raise UserError(f"{key}={name} is no device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"{key}={name}: torch sees {count} GPUs here; use {key}=auto or cpu")
    return device


def use_device(device: torch.device) -> None:
    """Make a GPU the current one of this process, which NCCL and the loaders' pinned memory use."""
    if device.type == "cuda":
        # trainer.deterministic needs it, but torch may read it once, in an earlier training that is not deterministic
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(device)


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto`: bf16 where the device computes in it natively, else fp32. Raises UserError for fp16 on a CPU."""
    if name == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UserError("trainer.precision=fp16 needs a GPU; on a processor use bf16, fp32 or auto")
    return name


@functools.cache
def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Without the native instructions bf16 is emulated, and slower than fp32.
    return any(getattr(torch.cpu, probe, bool)() for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which the model computes, at `trainer.precision`; fp32 leaves everything as it is."""
    precision = resolve_precision(precision, device)
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=DTYPES[precision])


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling, which only fp16 needs: a scaler that does nothing for other values of `trainer.precision`."""
    return torch.amp.GradScaler(device.type, enabled=resolve_precision(precision, device) == "fp16")


def to_device(model: Model, device: torch.device, *, channels_last: bool) -> Model:
    """Move a model to its device and memory layout."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device=device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


@contextmanager
def determinism(enabled: bool) -> Iterator[None]:
    """trainer.deterministic: in here only operations with one result; raises where an operation has none."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make the random draws of a step follow from (seed, step, rank) alone, so that no state has to be saved."""
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)


def wait_for(device: torch.device) -> None:
    """Until everything that was launched on the device is done; a processor has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def threads_beside(device: torch.device) -> int:
    """How many threads may compute on the host beside a model on the device: one beside a processor's own."""
    return 1 if device.type == "cpu" else max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2))


def peak_memory_mb(device: torch.device) -> float:
    """The most memory used so far: of the GPU, or of this process; NaN on Windows, where Python does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
