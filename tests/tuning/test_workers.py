"""Workers in processes of their own: several of them, stopped ones, killed ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import TINY

pytest.importorskip("optuna", reason="needs the extra tune")

from searches import search

from maskrcnn_train.tuning import workers

STEPS = ["trainer.max_steps=24", "trainer.interval_unit=step", "trainer.checkpoint_every=2"]
STEPS += ["trainer.evaluate_every=0", "output_dir=search"]


def postgresql_programs() -> Path | None:
    """The folder of initdb and pg_ctl: Debian does not put it on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else found[-1] if found else None


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[str]:
    pytest.importorskip("psycopg", reason="needs psycopg")
    folder = postgresql_programs()
    if folder is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to be root
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        if user:
            shutil.chown(name, user)
        port, data = free_port(), f"{name}/data"

        def call(program: str, *words: str) -> None:
            subprocess.run([folder / program, "-D", data, *words], user=user, cwd=name, check=True, capture_output=True)

        call("initdb", "-U", "tester", "--auth=trust", "--no-sync")
        call("pg_ctl", "-w", "-l", f"{name}/log", "-o", f"-p {port} -k {name} -h localhost", "start")
        yield f"postgresql+psycopg://tester@localhost:{port}/postgres"
        call("pg_ctl", "-m", "immediate", "stop")


@contextmanager
def mariadb() -> Iterator[str]:
    """With the password in an option file, as docs/tune.md says."""
    pymysql = pytest.importorskip("pymysql", reason="needs pymysql")
    path = f"{os.environ['PATH']}:/usr/sbin"
    programs = [shutil.which(each, path=path) for each in ("mariadb-install-db", "mariadbd", "my_print_defaults")]
    if None in programs:
        pytest.skip("needs MariaDB: apt-get install mariadb-server")
    install, server, _ = map(str, programs)
    with tempfile.TemporaryDirectory(prefix="mariadb-") as name:
        folder, port = Path(name), free_port()
        user = ["--user=root"] * (os.geteuid() == 0)  # the server refuses to be root unless it is told to
        data = ["--no-defaults", f"--datadir={folder / 'data'}", *user]
        subprocess.run([install, *data, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
        place = [
            f"--port={port}",
            "--bind-address=127.0.0.1",
            *(f"--{name}={folder / name}" for name in ("socket", "pid-file")),
        ]
        with (folder / "log").open("w") as log:
            running = subprocess.Popen([server, *data, *place], stdout=log, stderr=log)
        try:
            wait_for(folder / "pid-file", of=running)
            with pymysql.connect(unix_socket=str(folder / "socket"), user="root") as root, root.cursor() as cursor:
                cursor.execute("CREATE DATABASE searches")
                cursor.execute("CREATE USER tester@localhost IDENTIFIED BY 'secret'")
                cursor.execute("GRANT ALL ON searches.* TO tester@localhost")
            (folder / "my.cnf").write_text("[client]\npassword=secret\n")
            yield f"mysql+pymysql://tester@127.0.0.1:{port}/searches?read_default_file={folder / 'my.cnf'}"
        finally:
            running.terminate()
            running.wait()


@pytest.fixture(params=[postgresql, mariadb])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database on a free port."""
    with request.param() as url:
        yield url


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "maskrcnn_train.tune", *TINY, *STEPS, *overrides]


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(*paths: Path, of: subprocess.Popen[str]) -> None:
    while not all(path.exists() for path in paths):
        assert of.poll() is None, of.communicate()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("trainer.device=auto", [["trainer.device=cuda:0"], ["trainer.device=cuda:1"]]),
        ("trainer.device=cpu", [[]]),
        ("trainer.device=cuda:1", [[]]),
    ],
)
def test_workers_take_turns_on_the_gpus(given: str, expected: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert workers._devices(search(given)) == expected


@pytest.mark.slow
def test_several_workers_share_the_trials_and_stop_together(shapes: str, tmp_path: Path) -> None:
    words = command(shapes, "seed=0,1,2", "trials=3", "workers=2")
    both = started(tmp_path, *words)
    wait_for(*(tmp_path / f"search/{number}/checkpoints/last.pt" for number in range(2)), of=both)
    both.terminate()
    both.communicate(timeout=60)
    assert both.returncode == 128 + signal.SIGTERM
    assert not any((tmp_path / f"search/{number}/metrics.json").exists() for number in range(2))
    again = started(tmp_path, *words)
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0
    assert "3 complete" in said
    logs = [(tmp_path / f"search/worker_{number}.log").read_text() for number in range(2)]
    assert all("resumed search/" in log for log in logs)


@pytest.mark.slow
def test_a_worker_on_a_database_is_killed_and_another_finishes_its_trial(
    shapes: str, tmp_path: Path, database: str
) -> None:
    words = command(shapes, "seed=0,1", "trials=2", f"storage='{database}'")
    first = started(tmp_path, *words)
    wait_for(tmp_path / "search/0/checkpoints/last.pt", of=first)
    second = started(tmp_path, *words)
    wait_for(tmp_path / "search/1/train.log", of=second)
    first.kill()
    first.communicate()
    assert not (tmp_path / "search/0/metrics.json").exists()
    said, error = second.communicate(timeout=600)
    assert second.returncode == 0, error
    assert "resumed search/0 at step" in said
    trials = json.loads((tmp_path / "search/trials.json").read_text())["trials"]
    assert sorted((trial["number"], trial["state"]) for trial in trials) == [(0, "complete"), (1, "complete")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_stopped_is_followed_by_another(number: int, shapes: str, tmp_path: Path) -> None:
    words = command(shapes, "seed=0,1", "trials=1")
    worker = started(tmp_path, *words)
    wait_for(tmp_path / "search/0/checkpoints/last.pt", of=worker)
    worker.send_signal(number)
    _, error = worker.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert worker.returncode == 128 + number
        assert "output_dir=search" in error
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "resumed search/0 at step" in done.stdout
    (trial,) = json.loads((tmp_path / "search/trials.json").read_text())["trials"]
    assert (trial["number"], trial["state"]) == (0, "complete")
