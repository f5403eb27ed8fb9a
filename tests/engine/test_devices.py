"""How the processes of a training find their devices and each other, on a machine that has no GPU."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore, PrefixStore

from maskrcnn_train import load_config
from maskrcnn_train.engine import alarm, distributed
from maskrcnn_train.engine.alarm import LostPeer
from maskrcnn_train.engine.distributed import World
from maskrcnn_train.engine.meeting import meet
from maskrcnn_train.engine.optimizer import parameter_groups
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.train import pools_in_python

CPU = torch.device("cpu")


@pytest.fixture
def without_ddp(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What DistributedDataParallel was given."""
    given: dict[str, Any] = {}

    def parallel(model: nn.Module, forward_sync_buffers: bool = True, **options: object) -> nn.Module:
        given.update(options, forward_sync_buffers=forward_sync_buffers)
        return model

    monkeypatch.setattr(distributed, "DistributedDataParallel", parallel)
    monkeypatch.setattr(distributed, "share_buffers", lambda model, world: given.update(shared=True))
    return given


@pytest.mark.parametrize("enabled", [True, False])
def test_batch_norms_are_synchronised_except_in_heads_that_a_rank_may_skip(
    enabled: bool, without_ddp: dict[str, Any]
) -> None:
    parts = {name: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for name in ("backbone", "roi_heads")}
    section = load_config(["optimizer.norm_weight_decay=0"]).optimizer
    model = nn.ModuleDict(parts)
    before = parameter_groups(model, section)
    wrapped = distributed.wrap(model, World(0, 2), torch.device("cuda", 0), sync_batchnorm=enabled)
    assert isinstance(wrapped["backbone"][1], nn.SyncBatchNorm) == enabled
    assert isinstance(wrapped["roi_heads"][1], nn.BatchNorm2d)
    for one, other in zip(before, parameter_groups(wrapped, section), strict=True):
        assert [id(each) for each in one.pop("params")] == [id(each) for each in other.pop("params")]
        assert one == other


def test_buffers_are_shared_once_and_not_at_every_step(without_ddp: dict[str, Any]) -> None:
    distributed.wrap(nn.Linear(2, 2), World(0, 2), CPU)
    assert without_ddp == {
        "shared": True,
        "forward_sync_buffers": False,
        "gradient_as_bucket_view": True,
    }


def test_synchronised_batch_norms_are_refused_on_processors() -> None:
    with pytest.raises(UserError, match="sync_batchnorm=true needs GPUs"):
        distributed.wrap(nn.Linear(2, 2), World(0, 2), CPU, sync_batchnorm=True)


@pytest.fixture(autouse=True)
def same_handler() -> Iterator[None]:
    """A process that leaves after another ignores SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


class Machine:
    """Stands in for CUDA, NCCL and the store of torchrun. calls: what was asked of them, in order."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, rank: int, visible: list[str], others: dict[int, str]
    ) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.store = HashStore()
        self.others = others
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 1 + len(others)}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # it is put back
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(visible))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible))
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=visible[device.index])
        )
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: self.calls.append(("set_device", device)))
        monkeypatch.setattr(distributed, "rendezvous", lambda url, timeout: iter([(self.store, 0, 0)]))
        monkeypatch.setattr(distributed, "meet", self.meet)
        monkeypatch.setattr(dist, "init_process_group", self.init)
        monkeypatch.setattr(dist, "destroy_process_group", lambda: self.calls.append(("destroy", None)))
        backend = SimpleNamespace(abort=lambda: self.calls.append(("abort", None)))
        world = SimpleNamespace(_get_backend=lambda device: backend)
        monkeypatch.setattr(dist, "group", SimpleNamespace(WORLD=world))

    def meet(self, store: Any, rank: int, size: int, word: str, *, minutes: float) -> tuple[Any, list[str]]:
        return store, [word if other == rank else f"{self.others[other]} of {HOST}" for other in range(size)]

    def init(self, backend: str, **options: Any) -> None:
        self.options = options
        self.calls.append(("init", backend))


HOST = socket.gethostname()
GPUS = ["a", "b"]


@pytest.mark.parametrize(
    ("name", "visible", "other", "device", "backend"),
    [
        ("auto", GPUS, "GPU a", torch.device("cuda", 1), "cpu:gloo,cuda:nccl"),
        ("cuda", GPUS, "GPU a", torch.device("cuda", 1), "cpu:gloo,cuda:nccl"),
        ("auto", ["b"], "GPU a", torch.device("cuda", 0), "cpu:gloo,cuda:nccl"),  # a launcher shows each its own
        ("cpu", GPUS, "processor", CPU, "gloo"),
        ("auto", [], "processor", CPU, "gloo"),
    ],
)
def test_a_process_takes_its_own_device_before_it_joins_the_others(
    name: str, visible: list[str], other: str, device: torch.device, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, rank=1, visible=visible, others={0: other})
    trainer = load_config([f"trainer.device={name}", "trainer.distributed_timeout=7"]).trainer
    with distributed.joined(trainer) as (world, own):
        assert (world.rank, world.size, own) == (1, 2, device)
    taken = [("set_device", device)] if device.type == "cuda" else []
    assert machine.calls == [*taken, ("init", backend), ("destroy", None)]
    assert machine.options["device_id"] == (device if taken else None)
    assert machine.options["timeout"].total_seconds() == 7 * 60


@pytest.mark.parametrize(
    ("name", "visible", "other", "said"),
    [
        ("cuda:0", GPUS, "GPU a", "ranks 0 and 1 share GPU a"),
        ("auto", ["a"], "GPU a", "ranks 0 and 1 share GPU a"),
        ("auto", [], "GPU a", "rank 0 computes on GPU a"),
        ("cuda", [], "processor", "torch sees 0 GPUs here"),
        ("auto", GPUS, "nothing: no such GPU", "rank 0 computes on nothing: no such GPU"),
    ],
)
def test_devices_that_do_not_go_together_end_in_one_line_before_nccl_starts(
    name: str, visible: list[str], other: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, rank=1, visible=visible, others={0: other})
    with (
        pytest.raises(UserError, match=said),
        distributed.joined(load_config([f"trainer.device={name}"]).trainer),
    ):
        pass
    assert machine.calls == []


def test_a_rank_that_never_comes_is_named() -> None:
    with pytest.raises(UserError, match=r"ranks \['1'\] did not start within trainer.distributed_timeout=0.001"):
        meet(HashStore(), 0, 2, "here", minutes=0.001)


def test_each_attempt_meets_in_a_new_part_of_the_store_whoever_comes_first() -> None:
    store, parts = HashStore(), []
    for order in (range(3), reversed(range(3))):
        with ThreadPoolExecutor(3) as pool:
            meetings = []
            for rank in order:
                meetings.append(pool.submit(meet, store, rank, 3, f"rank {rank}", minutes=0.5))
                time.sleep(0.15)
            found = [meeting.result() for meeting in meetings]
        assert all(words == ["rank 0", "rank 1", "rank 2"] for _, words in found)
        found[0][0].set("address", "new")
        assert all(part.get("address") == b"new" for part, _ in found)
        parts.append(found[0][0])
    parts[1].set("address", "newer")
    assert parts[0].get("address") == b"new"


def test_a_rank_that_ends_breaks_off_the_collectives_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs nothing else would: NCCL waits, and what it then leaves in the gradients is no number to step with."""
    monkeypatch.setattr(alarm, "POLL_SECONDS", 0.01)
    machine = Machine(monkeypatch, rank=1, visible=GPUS, others={0: "GPU a"})

    def meet_a_fault_of_rank_0() -> None:
        with distributed.joined(load_config([]).trainer) as (world, _):
            distributed.check_peers(world)
            alarm.Alarm(PrefixStore("alarm", machine.store), rank=0).ring(MemoryError())
            while ("abort", None) not in machine.calls:
                time.sleep(0.01)
            distributed.check_peers(world)

    with pytest.raises(LostPeer, match=r"rank 0 on .* ended: out of memory"):
        meet_a_fault_of_rank_0()
    assert machine.calls[-1] == ("destroy", None)


@pytest.mark.parametrize(
    ("device", "settings", "slow"),
    [
        ("cuda", ["trainer.deterministic=true", "pooler.sampling_ratio=0"], True),
        ("cuda", ["trainer.deterministic=true", "mask_head.pooler.sampling_ratio=0"], True),
        ("cuda", ["trainer.deterministic=true", "mask_head.pooler.sampling_ratio=0", "mask_head=none"], False),
        ("cuda", ["trainer.deterministic=true", "pooler.sampling_ratio=2"], False),
        ("cuda", ["pooler.sampling_ratio=0"], False),
        ("cpu", ["trainer.deterministic=true", "pooler.sampling_ratio=0"], False),
    ],
)
def test_a_deterministic_training_on_a_gpu_warns_of_adaptive_sampling(
    device: str, settings: list[str], slow: bool
) -> None:
    assert pools_in_python(load_config(settings), torch.device(device)) == slow


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (dist.DistBackendError("NCCL communicator was aborted"), "another process was killed or cut off"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer"), "killed or cut off"),
        (RuntimeError("[gloo/unbound_buffer.cc:81] Timed out waiting 60000ms"), "within trainer.distributed_timeout"),
        (RuntimeError("shapes differ"), None),
    ],
)
def test_a_failed_collective_is_told_from_a_bug(
    error: RuntimeError, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarm, "PATIENCE", 0.01)
    world = World(0, 2, alarm.Alarm(HashStore(), rank=0))
    with pytest.raises(RuntimeError if said is None else LostPeer, match=said), distributed.naming_lost_peers(world):
        raise error
