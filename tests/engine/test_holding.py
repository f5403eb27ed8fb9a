"""One process at a time works in a folder, and its death lets the next one in."""

from __future__ import annotations

import errno
import fcntl
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import TINY

from maskrcnn_train import load_config, train
from maskrcnn_train.engine import holding
from maskrcnn_train.engine.holding import held
from maskrcnn_train.settings.errors import UserError

# its child has the file open as well, as processes that load images have, and lives longer
HOLDER = """
import os, sys, time
from pathlib import Path
from maskrcnn_train.engine.holding import held
folder = Path(sys.argv[1])
with held(folder, folder / ".lock"):
    child = os.fork()
    if child == 0:
        os.close(1)
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds tmp_path until it gets a line; another one ends it."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_training_in_the_folder_of_a_running_one_is_refused_and_touches_nothing(
    holder: subprocess.Popen[str], shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config([*TINY, shapes, "trainer.max_steps=1", f"output_dir={tmp_path}", "resume=auto"])
    (tmp_path / "train.log").touch()
    (tmp_path / ".last.pt.1.part").touch()
    with monkeypatch.context() as patch:
        patch.setattr(holding, "PATIENCE", 0.3)
        with pytest.raises(UserError, match=f"process {holder.pid} on .* works in {tmp_path}; wait for its end"):
            train(config)
    assert {path.name for path in tmp_path.iterdir()} == {"train.log", ".last.pt.1.part", ".lock"}
    assert (tmp_path / "train.log").read_text().count("\n") == 1
    assert "waiting up to 0 s for its end" in (tmp_path / "train.log").read_text()
    holder.kill()  # its child follows; that is waited for
    train(config)
    assert (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_was_left_is_free_at_once(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "left\n"
    monkeypatch.setattr(holding, "PATIENCE", 0.0)
    with held(tmp_path, tmp_path / ".lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_files_cannot_be_locked_a_warning_says_so_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    monkeypatch.setattr(logging.getLogger("maskrcnn_train"), "propagate", True)
    done = []
    with held(tmp_path, tmp_path / ".lock"):
        done.append(1)
    assert done
    assert "cannot be locked ([Errno 37] No locks available): see that no other process writes" in caplog.text
