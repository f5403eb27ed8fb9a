"""Sweeps: each job in its folder, done once, however often the command is given."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny import TINY

from maskrcnn_train import load_config, train
from maskrcnn_train.cli.main import run_command
from maskrcnn_train.cli.sweep import jobs_of
from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.reporting.jobs import find_job, read_jobs
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.rules import check_train_rules
from maskrcnn_train.settings.schema import TrainConfig

Sweep = Callable[..., list[TrainConfig]]


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Runs a sweep in tmp_path whose trainings only note their settings; `fault` may raise something for some."""

    def sweep(*overrides: str, fault: Callable[[TrainConfig], None] = lambda _: None) -> list[TrainConfig]:
        trained = []

        def train(config: TrainConfig) -> float:
            trained.append(config)
            folder = Path(config.output_dir or "")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "train.log").touch()
            fault(config)
            (folder / "metrics.json").write_text(json.dumps({"segm/AP": config.optimizer.lr}))
            return config.optimizer.lr

        monkeypatch.setattr(sys, "argv", ["train", "-m", "experiment=shapes", *overrides, f"output_dir={tmp_path}"])
        run_command("train", TrainConfig, check_train_rules, train, "help")
        return trained

    return sweep


def test_a_sweep_goes_on_where_it_stopped_and_knows_its_jobs_by_their_settings(swept: Sweep, tmp_path: Path) -> None:
    def stop(config: TrainConfig) -> None:
        if config.seed == 2:
            raise Interrupted(15)

    with pytest.raises(SystemExit) as end:
        swept("seed=1,2", fault=stop)
    assert end.value.code == 128 + 15
    (stopped,) = swept("seed=1,2")
    assert (stopped.seed, stopped.resume, stopped.output_dir) == (2, "auto", str(tmp_path / "1"))
    (new,) = swept("seed=3,2")
    assert (new.seed, new.output_dir) == (3, str(tmp_path / "2"))
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert {row["job"]: row["seed"] for row in rows} == {"0": "1", "1": "2", "2": "3"}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"0", "1", "2", "jobs"}


def test_failed_jobs_have_their_reasons_in_the_table_and_are_repeated_only_when_asked(
    swept: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: TrainConfig) -> None:
        raise UserError("the disk\nis full") if config.seed == 0 else KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        swept("seed=0,1", fault=fail)
    rows = csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines())
    assert {row["seed"]: row["reason"] for row in rows} == {"0": "the disk is full", "1": "'a bug'"}
    assert "the disk is full" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    with pytest.raises(RuntimeError, match="a bug"):  # neither is repeated: what `fail` would do now does not count
        swept("seed=0,1")
    assert "the disk is full (earlier; to repeat the job add sweep.retry_failed=true)" in capsys.readouterr().err
    again = swept("seed=0,1", "sweep.retry_failed=true")
    assert [(each.seed, each.resume) for each in again] == [(0, "auto"), (1, "auto")]
    assert [job.state for job in read_jobs(tmp_path)] == ["finished"] * 2
    assert "reason" not in (tmp_path / "sweep.csv").read_text()


def test_a_sweep_in_a_file_is_checked_whole_and_run(swept: Sweep, tmp_path: Path) -> None:
    file = tmp_path / "mine/experiment/night/lr.yaml"
    file.parent.mkdir(parents=True)
    head = "# @package _global_\nhydra:\n  sweeper:\n    params: {{seed: '1,2', optimizer.lr: '{}'}}\n"
    given = ["experiment=night/lr", "--config-dir", str(tmp_path / "mine")]
    file.write_text(head.format("0.1,-1"))
    with pytest.raises(SystemExit) as end:
        swept(*given)
    assert end.value.code == 2
    assert not (tmp_path / "jobs").exists()
    file.write_text(head.format("0.1,0.2"))
    trained = swept(*given)
    assert [(each.seed, each.optimizer.lr) for each in trained] == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    words = ["experiment=night/lr", "hydra.sweeper.params.seed='3'"]
    jobs = jobs_of("train", TrainConfig, words, str(tmp_path / "mine"))
    assert [job[:2] for job in jobs] == [["seed=3", "optimizer.lr=0.1"], ["seed=3", "optimizer.lr=0.2"]]


def test_a_sweep_does_not_train_one_run_for_all_its_jobs(
    swept: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        swept("seed=0,1", f"resume={tmp_path}/run")
    assert end.value.code == 2
    assert "is for one training; a sweep goes on with -m and its output_dir" in capsys.readouterr().err
    assert not (tmp_path / "jobs").exists()


def test_the_folder_of_a_sweep_may_be_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[TrainConfig] = []
    folder = tmp_path / "my sweep"
    monkeypatch.setattr(sys, "argv", ["train", "-m", "experiment=shapes", "seed=0,1", f"output_dir='{folder}'"])
    run_command("train", TrainConfig, check_train_rules, trained.append, "help")
    assert [config.output_dir for config in trained] == [str(folder / "0"), str(folder / "1")]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [(["sweep.retry_failed=true"], "is for sweeps; add -m"), (["-m", "seed=0,1", "sweep.retry_failed=2"], "no choice")],
)
def test_retry_failed_is_a_switch_of_sweeps(
    overrides: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *overrides])
    with pytest.raises(SystemExit) as end:
        run_command("train", TrainConfig, check_train_rules, lambda _: None, "help")
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_sweep_repeats_no_finished_job_and_loses_no_step(shapes: str, tmp_path: Path) -> None:
    steps = ["trainer.max_steps=20", "trainer.interval_unit=step", "trainer.checkpoint_every=2"]
    same = [*TINY, shapes, *steps, "trainer.evaluate_every=0"]
    given = [*same, "optimizer.lr=1e-3,1e-4", f"output_dir={tmp_path / 'sweep'}"]
    words = [sys.executable, "-m", "maskrcnn_train", "-m", *given]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "sweep/1/checkpoints/last.pt").exists():
        assert first.poll() is None
        time.sleep(0.1)
    first.kill()
    first.wait()
    finished = (tmp_path / "sweep/0/metrics.json").stat().st_mtime_ns
    again = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert f"{tmp_path / 'sweep/0'} is finished" in again.stdout
    assert f"resumed {tmp_path / 'sweep/1'} at step" in again.stdout
    assert (tmp_path / "sweep/0/metrics.json").stat().st_mtime_ns == finished
    rows = list(csv.DictReader((tmp_path / "sweep/sweep.csv").read_text().splitlines()))
    assert {row["job"] for row in rows} == {"0", "1"}
    single = train(load_config([*same, "optimizer.lr=1e-4", f"output_dir={tmp_path / 'single'}"]))
    assert json.loads((tmp_path / "sweep/1/metrics.json").read_text()) == single.metrics


def test_a_sweep_needs_no_c_library_of_linux(swept: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_windows(name: str | None) -> None:
        assert "/" in name  # type: ignore[operator]  # a TypeError, as of ctypes there

    monkeypatch.setattr("ctypes.CDLL", of_windows)
    assert len(swept("seed=1,2")) == 2


def test_two_commands_that_begin_at_once_make_a_job_once(tmp_path: Path) -> None:
    for attempt in range(60):
        together = threading.Barrier(2)

        def find(folder: Path = tmp_path / str(attempt), together: threading.Barrier = together) -> int:
            together.wait()
            return find_job(folder, {"seed": 1}, [], 0).number

        with ThreadPoolExecutor(2) as pool:
            assert [pool.submit(find) for _ in range(2)][1].result() == 0
        assert len(read_jobs(tmp_path / str(attempt))) == 1
