"""Numbers between the device and the host. A GPU runs behind the host, and reading a number waits until it is computed:
every place of a training step and of detection that waits does so here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def read_later(numbers: Tensor) -> Callable[[], list[Any]]:
    """Starts to copy numbers [K] to the host. The returned function waits for them, and for nothing queued since."""
    if numbers.device.type != "cuda":
        return numbers.tolist
    copy = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> list[Any]:
        arrived.synchronize()
        return copy.tolist()

    return wait


def read(numbers: Tensor) -> list[Any]:
    """Numbers [K] of the device; waits for everything that they follow from."""
    return read_later(numbers)()


def fetch(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors on the host. From a GPU all of one dtype come in one copy, and the host waits once."""
    if not tensors or tensors[0].device.type != "cuda":
        return [tensor.cpu() for tensor in tensors]
    fetched: dict[int, Tensor] = {}
    for dtype in {tensor.dtype for tensor in tensors}:
        own = [index for index, tensor in enumerate(tensors) if tensor.dtype == dtype]
        packed = torch.cat([tensors[index].flatten() for index in own])
        copy = torch.empty_like(packed, device="cpu", pin_memory=True).copy_(packed, non_blocking=True)
        parts = copy.split([tensors[index].numel() for index in own])
        fetched |= {index: part.view(tensors[index].shape) for index, part in zip(own, parts, strict=True)}
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [fetched[index] for index in range(len(tensors))]


def send(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A few numbers of the host on the device. Does not wait: the driver copies short arrays before it returns."""
    return torch.tensor(values, dtype=dtype, device="cpu").to(device, non_blocking=True)


def find_later(flags: Tensor) -> Callable[[], Tensor]:
    """The indices int64 [R] of the flags that are set, bool [K]. How many they are is read when they are asked for, so
    that the device has work meanwhile."""
    count = read_later(flags.sum()[None])
    return lambda: torch.nonzero_static(flags, size=count()[0])[:, 0]
