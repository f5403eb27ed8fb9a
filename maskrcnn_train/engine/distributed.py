"""Several processes under torchrun: the only module that talks to torch.distributed.

Every function does the plain thing in a single process.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from maskrcnn_train.settings.errors import UserError


@dataclass(frozen=True)
class World:
    """This process among all. rank: 0..size-1; local_rank: its number on this machine."""

    rank: int
    local_rank: int
    size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0


ALONE = World(0, 0, 1)


@contextmanager
def joined_world() -> Iterator[World]:
    """Join the other processes of torchrun, if there are any, and leave them at the end."""
    rank, local_rank, size = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    world = World(rank, local_rank, max(size, 1))
    if world.size == 1:
        yield world
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield world
    finally:
        dist.destroy_process_group()


def broadcast(value: Any, world: World) -> Any:
    """Rank 0's value, on every rank."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: list[Any], world: World) -> list[Any]:
    """The lists of all ranks, one after the other, on every rank."""
    if world.size == 1:
        return value
    parts: list[Any] = [None] * world.size
    dist.all_gather_object(parts, value)
    return [item for part in parts for item in part]


def any_rank(flag: bool, world: World, device: torch.device) -> bool:
    """Whether the flag is set on any rank; all ranks get the same answer."""
    return bool(largest(float(flag), world, device)) if world.size > 1 else flag


def largest(number: float, world: World, device: torch.device) -> float:
    """The largest value over the ranks, the same on all of them."""
    if world.size == 1:
        return number
    value = torch.tensor(number, device=device, dtype=torch.float64)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return float(value.item())


def wrap(model: nn.Module, world: World, device: torch.device, *, sync_batchnorm: bool = False) -> nn.Module:
    """DistributedDataParallel for several processes; the model itself for one."""
    if world.size == 1:
        return model
    if sync_batchnorm:
        if device.type != "cuda":
            raise UserError("trainer.sync_batchnorm=true needs GPUs; torch has no such norm for a processor")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # Every head keeps its graph without objects, so no search for unused parameters is needed.
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def share_buffers(model: nn.Module, world: World) -> None:
    """Rank 0's buffers on every rank: the statistics of batch norms, which each rank counts for itself."""
    if world.size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def without_sync(model: nn.Module, skip: bool) -> AbstractContextManager[object]:
    """Leave the exchange of gradients out while batches are accumulated."""
    return model.no_sync() if skip and isinstance(model, DistributedDataParallel) else nullcontext()
