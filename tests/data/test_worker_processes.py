"""Processes that load images, by every way in which Python starts one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

# a process that was not forked imports the script again, and is slow to start and to end
SCRIPT = """
import multiprocessing, os, signal, sys, time
from contextlib import closing
from maskrcnn_train import build_loaders, load_config
from maskrcnn_train.data.loading import DetectionLoader

class SlowEnd:
    def __del__(self, sleep=time.sleep):
        sleep(4)

if __name__ == "__mp_main__":
    slow = SlowEnd()
    print("starting", flush=True)
    time.sleep(float(os.environ.get("SLOW_START", 0)))

if __name__ == "__main__":
    method, task, *settings = sys.argv[1:]
    multiprocessing.set_start_method(method)
    if task == "train":
        from maskrcnn_train.__main__ import main
        sys.argv[1:] = settings
        main()
    else:
        loaders = build_loaders(load_config(settings))
        with closing(loaders):
            next(iter(loaders.train))
            workers = multiprocessing.active_children()
            if task == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        print([worker.exitcode for worker in workers])
"""


@pytest.fixture
def command(shapes: str, tmp_path: Path) -> list[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    return [sys.executable, str(tmp_path / "script.py")]


@pytest.fixture
def settings(shapes: str) -> list[str]:
    return [*TINY, shapes, "trainer.num_workers=2"]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_they_end_with_a_main_process_that_is_killed(method: str, command: list[str], settings: list[str]) -> None:
    # the output ends when the last process has closed it
    done = subprocess.run([*command, method, "kill", *settings], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_none_of_them_dies_when_it_is_closed(command: list[str], settings: list[str]) -> None:
    done = subprocess.run([*command, "spawn", "close", *settings], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1:] == ["[0, 0]"], done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_while_they_start_saves_and_ends_a_training(
    number: signal.Signals, command: list[str], settings: list[str], tmp_path: Path
) -> None:
    words = [*command, "spawn", "train", *settings, "trainer.max_steps=1000", f"output_dir={tmp_path / 'run'}"]
    there = {**os.environ, "SLOW_START": "1.5"}
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=there,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    ) as training:
        assert training.stdout is not None
        assert any(line == "starting\n" for line in training.stdout)
        os.killpg(training.pid, number)
        _, said = training.communicate(timeout=60)
    assert training.returncode == 128 + number, said
    assert "Traceback" not in said
    assert said.splitlines()[-1:] == [f"stopped by {number.name}; continue with resume=auto or resume=RUN_FOLDER"]
    assert (tmp_path / "run/checkpoints/last.pt").is_file()
