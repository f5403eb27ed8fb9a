"""What torchrun adds: a killed process is started again, on several machines too, which need not share a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY

from maskrcnn_train.engine.checkpoint import Checkpoints, read_checkpoint
from maskrcnn_train.engine.distributed import World
from maskrcnn_train.engine.run import distributed, has_checkpoint
from maskrcnn_train.settings.errors import UserError

# Each rank runs in a working folder of its own, so that a relative output_dir is not shared.
SCRIPT = """
import os, sys
from planted_fault import plant
from maskrcnn_train.__main__ import main
home, phase, fault, *places = sys.argv[1:6]
sys.argv[1:6] = []
os.makedirs(os.path.join(home, places[int(os.environ["RANK"])]), exist_ok=True)
os.chdir(os.path.join(home, places[int(os.environ["RANK"])]))
os.environ["STRUCK"] = os.path.join(home, "struck")
if fault != "none" and os.environ["RANK"] == "1" and not os.path.exists(os.environ["STRUCK"]):
    plant(phase, fault)
main()
"""
SETTINGS = [each for each in TINY if not each.startswith("trainer.batch_size")]
SETTINGS += ["trainer.batch_size=2", "trainer.interval_unit=step", "trainer.checkpoint_every=1", "trainer.ema=0.995"]
SETTINGS += ["trainer.evaluate_every=0", "trainer.distributed_timeout=1", "output_dir=run", "resume=auto"]


def command(
    folder: Path, *settings: str, fault: str = "none", places: tuple[str, str] = ("a", "a"), agent: tuple[str, ...]
) -> list[str]:
    """torchrun's command line. agent: its own options."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d", *agent]
    return [*torchrun, str(script), str(folder), "second step", fault, *places, *SETTINGS, *settings]


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def torchrun(
    folder: Path, *settings: str, fault: str = "none", places: tuple[str, str] = ("a", "a"), restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """Two processes of one machine."""
    agent = ("--nproc_per_node=2", f"--max-restarts={restarts}", "--rdzv-endpoint=localhost:0")
    whole = command(folder, *settings, fault=fault, places=places, agent=agent)
    return subprocess.run(whole, env=environment(), capture_output=True, text=True, timeout=300)


def last(run: Path) -> dict[str, Any]:
    return read_checkpoint(run / "checkpoints/last.pt")


@pytest.mark.slow
def test_a_killed_process_and_machines_without_a_shared_folder_end_with_the_weights_of_an_undisturbed_run(
    shapes: str, tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("whole", "killed", "apart")}
    for folder in folders.values():
        folder.mkdir()
    four = "trainer.max_steps=4"
    assert torchrun(folders["whole"], shapes, four).returncode == 0
    killed = torchrun(folders["killed"], shapes, four, fault="SIGKILL", restarts=1)
    assert killed.returncode == 0, killed.stderr
    assert "resumed run at step 1" in (folders["killed"] / "a/run/train.log").read_text()
    assert torchrun(folders["apart"], shapes, four, fault="bug", places=("a", "b")).returncode > 0
    apart = torchrun(folders["apart"], shapes, four, places=("a", "b"))
    assert apart.returncode == 0, apart.stderr
    assert not (folders["apart"] / "b/run/checkpoints").exists()
    whole = last(folders["whole"] / "a/run")
    for name in ("killed", "apart"):
        other = last(folders[name] / "a/run")
        assert other["position"]["step"] == 4
        for part in ("model", "ema"):
            assert all(torch.equal(weight, other[part][key]) for key, weight in whole[part].items()), (name, part)
    swapped = torchrun(folders["apart"], shapes, "trainer.max_steps=6", places=("b", "a"))
    lines = [line for line in swapped.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "(rank 1), but not on" in lines[0]


@pytest.fixture
def two_hosts() -> Iterator[list[tuple[str, str, str]]]:
    """Two network namespaces with a cable between them: name, interface and address of each."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root, and the program ip")
    hosts = [(f"maskrcnn{os.getpid()}{each}", f"cable{each}", f"10.77.0.{each}") for each in (1, 2)]
    (first, cable, _), (second, other, _) = hosts
    try:
        for name, *_ in hosts:
            subprocess.run(["ip", "netns", "add", name], check=True)
        link = ["ip", "link", "add", cable, "netns", first, "type", "veth", "peer", "name", other, "netns", second]
        subprocess.run(link, check=True)
        for name, interface, address in hosts:
            subprocess.run(["ip", "-n", name, "addr", "add", f"{address}/24", "dev", interface], check=True)
            for each in (interface, "lo"):
                subprocess.run(["ip", "-n", name, "link", "set", each, "up"], check=True)
        yield hosts
    finally:
        for name, *_ in hosts:
            subprocess.run(["ip", "netns", "del", name], check=False)


def join(folder: Path, host: tuple[str, str, str], leader: str, *settings: str) -> subprocess.Popen[bytes]:
    """torchrun on a host, with one process; rank 1 is killed at its second step, once."""
    name, interface, address = host
    options = ("--nnodes=2", "--nproc_per_node=1", "--max-restarts=3", "--rdzv-id=two", f"--local-addr={address}")
    options = (*options, f"--rdzv-endpoint={leader}:29500", f"--rdzv-conf=is_host={address == leader}")
    agent = command(folder, *settings, fault="SIGKILL", agent=options)
    with (folder / f"{interface}.txt").open("a") as log:
        # else torchrun tells the address of rank 0 in the first round only, and a host that comes later waits for it
        there = environment(GLOO_SOCKET_IFNAME=interface, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
        return subprocess.Popen(["ip", "netns", "exec", name, *agent], env=there, stdout=log, stderr=log)


FORGOTTEN = 20  # seconds: torchrun forgets a host that misses three signs of life, five seconds apart


def lose(host: str) -> None:
    """Kill all processes of a host: torchrun itself and what it started."""
    for pid in subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True).stdout.split():
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.slow
def test_two_hosts_train_as_one_machine_and_go_on_after_a_process_is_killed_and_after_a_host_is_lost(
    two_hosts: list[tuple[str, str, str]], shapes: str, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    settings = (shapes, "trainer.max_steps=12")
    assert torchrun(one, *settings).returncode == 0
    leader, summary = two_hosts[0][2], two / "a/run/checkpoints/last.json"
    agents = [join(two, host, leader, *settings) for host in two_hosts]
    try:
        for _ in range(1000):
            if summary.exists() and json.loads(summary.read_text())["position"]["step"] >= 4:
                break
            time.sleep(0.2)
        lose(two_hosts[1][0])
        assert agents[1].wait(timeout=60) == -signal.SIGKILL
        time.sleep(FORGOTTEN)
        agents[1] = join(two, two_hosts[1], leader, *settings)
        codes = [agent.wait(timeout=400) for agent in agents]
    finally:
        for agent in agents:
            agent.terminate()
            agent.wait(timeout=60)
    assert codes == [0, 0], [path.read_text()[-6000:] for path in two.glob("cable*.txt")]
    assert (two / "struck").exists()
    log = (two / "a/run/train.log").read_text()
    assert "resumed run at step 1" in log
    assert log.count("resumed run at step") >= 2
    assert (two / "a/run/metrics.json").read_text() == (one / "a/run/metrics.json").read_text()
    whole, other = last(one / "a/run"), last(two / "a/run")
    assert all(torch.equal(weight, other["model"][key]) for key, weight in whole["model"].items())


@pytest.mark.parametrize(("there", "resumes"), [((True, False), True), ((False, False), False), ((False, True), None)])
def test_rank_0_decides_whether_a_run_is_resumed_unless_only_another_machine_has_it(
    there: tuple[bool, bool], resumes: bool | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(distributed, "gather", lambda value, world: list(zip(there, ("node1", "node2"), strict=True)))
    checkpoints = Checkpoints(tmp_path, about={})
    if resumes is not None:
        assert has_checkpoint(checkpoints, World(1, 2)) == resumes
        return
    with pytest.raises(UserError, match=r"is there on node2 \(rank 1\), but not on node1 \(rank 0\)"):
        has_checkpoint(checkpoints, World(1, 2))
