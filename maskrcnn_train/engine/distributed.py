"""Several processes under torchrun. Only this module, `meeting.py` and `alarm.py` know torch.distributed.

Every function does the plain thing in a single process.
"""

from __future__ import annotations

import inspect
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from maskrcnn_train.engine.alarm import Alarm, LostPeer, is_of_group
from maskrcnn_train.engine.meeting import meet
from maskrcnn_train.engine.precision import resolve_device, use_device
from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainerConfig


@dataclass(frozen=True)
class World:
    """This process among all. rank: 0..size-1. alarm: how it hears that another has ended; None outside a group."""

    rank: int
    size: int
    alarm: Alarm | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0


ALONE = World(0, 1)


@contextmanager
def joined(trainer: TrainerConfig) -> Iterator[tuple[World, torch.device]]:
    """Join the other processes of torchrun, if there are any, and leave them at the end. Gives this process's device.

    What ends this process is told to the others. Raises LostPeer where another one has ended, and UserError where
    a device is not there or two processes have the same GPU.
    """
    rank, local_rank, size = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if size <= 1:
        device = resolve_device(trainer.device, local_rank)
        use_device(device)
        yield World(rank, 1), device
        return
    timeout = timedelta(minutes=trainer.distributed_timeout)
    store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
    found, place = _own_device(trainer.device, local_rank)
    store, places = meet(store, rank, size, place, minutes=trainer.distributed_timeout)
    device = _checked(found, places)
    use_device(device)  # before the first collective: NCCL takes the current one
    alarm = Alarm(PrefixStore("alarm", store), rank)
    world = World(rank, size, alarm)
    try:
        with naming_lost_peers(world), _group(store, world, device, timeout):
            yield world, device
    except Interrupted:  # as on all ranks
        raise
    except LostPeer:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others then; there is a line to say first
        raise
    except BaseException as error:
        alarm.ring(error)
        raise


def _own_device(name: str, local_rank: int) -> tuple[torch.device | UserError, str]:
    """The device of this process, or why it has none; and the same in words for the others."""
    try:
        device = resolve_device(name, local_rank)
    except UserError as error:
        return error, f"nothing: {error}"
    own = f"GPU {torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else "processor"
    return device, f"{own} of {socket.gethostname()}"


def _checked(device: torch.device | UserError, places: list[str]) -> torch.device:
    """The device. Raises UserError on all ranks where one has none, or not its own."""
    for rank, place in enumerate(places):
        if place.startswith("nothing"):
            raise device if isinstance(device, UserError) else LostPeer(f"rank {rank} computes on {place}")
        if place[:3] != places[0][:3]:
            raise UserError(
                f"rank 0 computes on {places[0]}, rank {rank} on {place}; set trainer.device=cpu or cuda for all"
            )
        if place.startswith("GPU") and (first := places.index(place)) < rank:
            raise UserError(
                f"ranks {first} and {rank} share {place}; start one process a GPU (--nproc_per_node), "
                "with trainer.device=auto"
            )
    assert isinstance(device, torch.device)
    return device


@contextmanager
def _group(store: Store, world: World, device: torch.device, timeout: timedelta) -> Iterator[None]:
    """The process group: gloo for numbers and objects, which then need no wait for a GPU, and NCCL for tensors."""
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=store,
        rank=world.rank,
        world_size=world.size,
        timeout=timeout,
        device_id=device if on_gpu else None,
    )
    try:
        with _aborting(world, device) if on_gpu else nullcontext():
            yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _aborting(world: World, device: torch.device) -> Iterator[None]:
    """Break collectives of NCCL off as soon as a process has ended: they would wait for it, and so would leaving."""
    group: Any = dist.group.WORLD
    alarm, abort = world.alarm, group._get_backend(device).abort
    assert alarm is not None
    with alarm.watching(abort):
        try:
            yield
        except Exception:
            abort()
            raise


@contextmanager
def naming_lost_peers(world: World) -> Iterator[None]:
    """Turn the failure of a collective into LostPeer, with the reason of the process that has ended."""
    try:
        yield
    except RuntimeError as error:
        if world.alarm is None or not is_of_group(error):
            raise
        raise world.alarm.lost_peer(error) from error


def broadcast(value: Any, world: World) -> Any:
    """Rank 0's value, on every rank."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather(value: list[Any], world: World) -> list[Any]:
    """The lists of all ranks, one after the other, on every rank."""
    if world.size == 1:
        return value
    parts: list[Any] = [None] * world.size
    dist.all_gather_object(parts, value)
    return [item for part in parts for item in part]


def any_rank(flag: bool, world: World) -> bool:
    """Whether the flag is set on any rank; all ranks get the same answer."""
    return bool(largest([float(flag)], world)[0])


def largest(numbers: list[float], world: World) -> list[float]:
    """The largest value of each number over the ranks, the same on all of them; on the processors, for all GPUs too."""
    if world.size == 1:
        return numbers
    values = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values.tolist()


def check_peers(world: World) -> None:
    """Raise LostPeer if another process has ended: collectives of NCCL that were broken off leave arbitrary numbers."""
    if world.alarm is not None and world.alarm.heard is not None:
        raise LostPeer(world.alarm.heard)


def wrap(model: nn.Module, world: World, device: torch.device, *, sync_batchnorm: bool = False) -> nn.Module:
    """DistributedDataParallel for several processes; the model itself for one."""
    if world.size == 1:
        return model
    if sync_batchnorm:
        if device.type != "cuda":
            raise UserError("trainer.sync_batchnorm=true needs GPUs; torch has no such norm for a processor")
        for name, part in model.named_children():
            if name != "roi_heads":  # a rank without objects skips the mask head, and the others would wait for it
                setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(part))
    share_buffers(model, world)
    # Every head keeps its graph without objects, so no search for unused parameters is needed. Buffers are frozen, or
    # statistics that training does not read.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # in torch 2.14
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    # DDP compares all strides; those of a 1x1 kernel differ between layouts, but not in memory
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # no device_ids: targets stay on the host until the model has checked them
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **options)


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
