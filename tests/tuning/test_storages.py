"""Where trials are kept, and what happens to those of dead workers there."""

from __future__ import annotations

import errno
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs the extra tune")

from searches import search

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.tuning import storages
from maskrcnn_train.tuning.trials import Pruned, Trials

SERVE = """
import sys
from optuna.storages import RDBStorage, run_grpc_proxy_server
run_grpc_proxy_server(RDBStorage(sys.argv[1]), host="localhost", port=int(sys.argv[2]))
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


Server = tuple[subprocess.Popen[bytes], str]


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Server]:
    """A gRPC server in front of a database, and its address."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-W", "ignore", "-c", SERVE, f"sqlite:///{tmp_path}/s.db", str(port)])
    yield server, f"grpc://localhost:{port}"
    server.kill()
    server.wait()


def test_in_a_database_a_silent_worker_loses_its_trial_and_learns_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storages, "BEAT", 1)
    monkeypatch.setattr(storages, "SILENCE", 1)
    found = search("trials=2", f"storage=sqlite:///{tmp_path}/search.db")
    workers = [Trials(tmp_path, found) for _ in range(3)]
    silent, living = (worker.begin() for worker in workers[:2])
    assert silent is not None
    assert living is not None
    with living.alive:
        time.sleep(1)
        follower = workers[2].begin()  # waits until it is known who is dead
    assert follower is not None
    assert (follower.folder, follower.overrides) == (silent.folder, silent.overrides)
    with pytest.raises(Pruned, match="another took the trial over"):
        silent.report(0.5, {"segm/AP": 0.5})
    workers[0].end(silent)
    workers[2].end(follower, scores=[0.5])
    assert [(each.number, each.state) for each in workers[0].records()] == [(0, "complete"), (1, "running")]


@pytest.mark.parametrize("fault", ["record_heartbeat", "set_trial_user_attr"])
def test_in_a_database_a_worker_that_is_killed_before_its_first_heartbeat_loses_its_trial(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storages, "BEAT", 1)
    monkeypatch.setattr(storages, "SILENCE", 1)
    found = search("trials=1", f"storage=sqlite:///{tmp_path}/search.db")
    killed, follower = (Trials(tmp_path, found) for _ in range(2))
    monkeypatch.setattr(killed.storage, fault, kill)
    with pytest.raises(KeyboardInterrupt):
        killed.begin()
    trial = follower.begin()
    assert trial is not None
    with trial.alive:
        assert Trials(tmp_path, found).begin() is None  # a living worker has it
    follower.end(trial, scores=[0.5])
    assert [each.state for each in follower.records()] == ["complete"]


def test_workers_share_a_search_through_a_server(tmp_path: Path, proxy: Server) -> None:
    workers = [Trials(tmp_path, search("trials=2", f"storage={proxy[1]}")) for _ in range(3)]
    trials = [worker.begin() for worker in workers]
    assert [trial and trial.folder.name for trial in trials] == ["0", "1", None]


def test_two_searches_share_a_database_but_not_their_trials(tmp_path: Path) -> None:
    found = search("trials=1", f"storage=sqlite:///{tmp_path}/search.db")
    for name in "ab":
        (tmp_path / name).mkdir()
        trial = Trials(tmp_path / name, found).begin()
        assert trial is not None
        assert trial.folder == tmp_path / name / "0"


def test_a_search_stays_in_its_storage(tmp_path: Path) -> None:
    Trials(tmp_path, search("trials=1", f"storage=sqlite:///{tmp_path}/search.db"))
    with pytest.raises(ValueError, match="has another storage; give the one it began with"):
        Trials(tmp_path, search("trials=1"))


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.db", "oracle9://x", "grpc://localhost:{port}"])
def test_a_storage_out_of_reach_is_one_line(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "CONNECTING", 0.2)
    with pytest.raises(ValueError, match="storage cannot be opened: ") as caught:
        storages.open_storage(url.format(port=free_port()), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_database_that_is_lost_in_a_search_is_one_line(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search("trials=2", f"storage=sqlite:///{tmp_path}/search.db"))
    trial = trials.begin()
    assert trial is not None
    with closing(sqlite3.connect(tmp_path / "search.db")) as database:
        database.execute("drop table trial_intermediate_values")
    said = "out of reach: no such table.*; when it is back, the same command goes on$"
    with pytest.raises(UserError, match=said), storages.naming_lost_storage():
        trial.report(0.5, {"segm/AP": 0.5})


def test_a_server_that_is_lost_in_a_search_is_one_line(tmp_path: Path, proxy: Server) -> None:
    server, address = proxy
    trial = Trials(tmp_path, search("trials=1", f"storage={address}")).begin()
    assert trial is not None
    server.kill()
    server.wait()
    with pytest.raises(UserError, match="the storage of this search is out of reach: "), storages.naming_lost_storage():
        trial.report(0.5, {"segm/AP": 0.5})


@pytest.mark.parametrize("kept", [0, 1])
def test_a_journal_whose_last_line_was_cut_short_goes_on(kept: int, tmp_path: Path) -> None:
    if kept:
        Trials(tmp_path, search("trials=1"))
    with (tmp_path / storages.JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 0, "')
    trial = Trials(tmp_path, search("trials=1")).begin()
    assert trial is not None
    assert trial.folder == tmp_path / "0"


def test_a_folder_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"is on a file system without locks \(No locks available\)"):
        Trials(tmp_path, search("trials=1"))
