"""The launchers of sweeps: the same jobs with the same results in other processes, and what happens to lost ones."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny import TINY

from maskrcnn_train.cli import launchers
from maskrcnn_train.cli.launchers import launcher_of
from maskrcnn_train.reporting.jobs import read_jobs
from maskrcnn_train.settings.errors import UserError

ROOT = Path(__file__).parents[2]
SIX = ["optimizer.lr=1e-3,2e-3", "seed=0,1,2"]
# a job of the sweep has a bug, in whatever process it runs
WITH_A_BUG = """
from maskrcnn_train import __main__ as training
from maskrcnn_train.cli.main import run_command
from maskrcnn_train.settings.rules import check_train_rules
from maskrcnn_train.settings.schema import TrainConfig

def run(config):
    if config.seed == 2 and config.optimizer.lr == 2e-3:
        raise KeyError("planted")
    return training.run(config)

if __name__ == "__main__":
    run_command("train", TrainConfig, check_train_rules, run, "help")
"""


@pytest.fixture
def no_plugin_needed(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Pretends that every plugin is installed, and that the machine has these GPUs."""

    def pretend(gpus: list[str]) -> None:
        monkeypatch.setattr(launchers, "find_spec", lambda _: True)
        monkeypatch.setattr(launchers, "_forget_values_of_plugin", lambda _: None)
        monkeypatch.setattr(launchers, "_gpus", lambda: gpus)

    return pretend


def test_every_launcher_has_a_preset_with_the_keys_that_the_docs_name() -> None:
    presets = {path.stem: OmegaConf.load(path) for path in (ROOT / "conf/hydra/launcher").glob("*.yaml")}
    assert set(presets) == set(launchers.PLUGINS)
    keys = set(re.findall(r"hydra\.launcher\.([\w.]*\w)", (ROOT / "docs/recipes.md").read_text()))
    assert len(keys) >= 4
    for key in keys:
        assert any(OmegaConf.select(preset, key, default="absent") != "absent" for preset in presets.values()), key


def test_a_launcher_without_its_plugin_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda _: None)
    with (
        pytest.raises(UserError, match=r"^hydra/launcher=ray needs one more package: pip install hydra-ray-launcher$"),
        launcher_of(["hydra/launcher=ray"], ["cpu"]),
    ):
        pass
    with launcher_of(["seed=0,1"], ["auto"]) as basic:
        assert (basic.name, basic.overrides) == ("basic", [])


@pytest.mark.parametrize(
    ("given", "devices", "added"),
    [
        (["hydra/launcher=joblib"], ["auto", "cpu"], ["hydra.launcher.n_jobs=2"]),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"], ["auto"], ["hydra.launcher.n_jobs=1"]),
        (["hydra/launcher=joblib"], ["cpu"], []),
        (["hydra/launcher=ray"], ["cuda"], ["hydra.launcher.ray.remote.num_gpus=1"]),
        (["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0.5"], ["cuda"], []),
        (["hydra/launcher=submitit_local", "hydra.launcher.gpus_per_node=1"], ["auto"], []),
        (["hydra/launcher=submitit_slurm"], ["auto"], []),
    ],
)
def test_gpus_of_this_machine_are_shared_out(
    given: list[str], devices: list[str], added: list[str], no_plugin_needed: Callable[[list[str]], None]
) -> None:
    no_plugin_needed(["0", "1"])
    with launcher_of(given, devices) as launcher:
        assert launcher.overrides == added


@pytest.mark.parametrize(
    ("visible", "count", "gpus"), [(None, 2, ["0", "1"]), ("5,3", 2, ["5", "3"]), ("", 0, []), ("-1", 0, [])]
)
def test_gpus_that_are_hidden_are_none(
    visible: str | None, count: int, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launchers._gpus() == gpus


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"], "a GPU has one job at a time; give 1 to 2"),
        (["hydra/launcher=submitit_local"], "all jobs at once, on one GPU; use hydra/launcher=joblib"),
    ],
)
def test_two_jobs_on_one_gpu_are_refused(
    given: list[str], complaint: str, no_plugin_needed: Callable[[list[str]], None]
) -> None:
    no_plugin_needed(["0", "1"])
    with pytest.raises(UserError, match=complaint), launcher_of(given, ["auto"]):
        pass


def start_process(launcher: launchers.Launcher, log: Path) -> int | None:
    with launcher.place(log):
        process = multiprocessing.Process(target=print)
        process.start()
        process.join()
        return process.exitcode


def test_a_job_of_joblib_can_start_processes_that_load_images(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib", reason="needs joblib, of the extra sweep")
    job = joblib.delayed(start_process)(launchers.Launcher("joblib", []), tmp_path / "0.log")
    assert joblib.Parallel(n_jobs=2)([job, job]) == [0, 0]
    joblib.externals.loky.get_reusable_executor().shutdown()


def own_gpu(launcher: launchers.Launcher, log: Path) -> tuple[int, str]:
    with launcher.place(log):
        print("hidden from the terminal")
        time.sleep(0.3)
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


def test_no_two_processes_of_joblib_have_the_same_gpu(
    no_plugin_needed: Callable[[list[str]], None], tmp_path: Path
) -> None:
    joblib = pytest.importorskip("joblib", reason="needs joblib, of the extra sweep")
    no_plugin_needed(["4", "GPU-5f"])
    with launcher_of(["hydra/launcher=joblib"], ["auto"]) as launcher:
        jobs = (joblib.delayed(own_gpu)(launcher, tmp_path / f"{index}.log") for index in range(6))
        had = set(joblib.Parallel(n_jobs=2, backend="loky", batch_size=1)(jobs))
        joblib.externals.loky.get_reusable_executor().shutdown()
    assert {gpu for _, gpu in had} == {"4", "GPU-5f"}
    assert len(had) == len({process for process, _ in had}) == 2  # a process keeps the one that it has
    assert (tmp_path / "0.log").read_text() == "hidden from the terminal\n"


def sweep(*words: str, program: tuple[str, ...] = ("-m", "maskrcnn_train")) -> list[str]:
    return [sys.executable, *program, "-m", *TINY, "trainer.device=cpu", *words]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # of which the last digits depend


@pytest.fixture(scope="module")
def alone(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The metrics of six jobs one after the other in one process, by their settings."""
    folder = tmp_path_factory.mktemp("alone")
    words = sweep(shapes, "trainer.max_steps=2", *SIX, f"output_dir={folder}")
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return metrics(folder)


def metrics(folder: Path) -> dict[str, str]:
    found = {job.number: job.settings for job in read_jobs(folder)}
    return {
        f"{settings['optimizer']['lr']} {settings['seed']}": (folder / f"{number}/metrics.json").read_text()
        for number, settings in found.items()
        if (folder / f"{number}/metrics.json").exists()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joblib", "submitit_local", "ray"])
def test_jobs_of_every_launcher_score_as_they_do_alone_and_a_bug_ends_only_its_own(
    name: str, alone: dict[str, str], shapes: str, tmp_path: Path
) -> None:
    plugin = launchers.PLUGINS[name]
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher", reason=f"needs hydra-{plugin}-launcher")
    script = tmp_path / "with_a_bug.py"
    script.write_text(WITH_A_BUG)
    folder = tmp_path / "sweep"
    given = [shapes, "trainer.max_steps=2", *SIX, f"hydra/launcher={name}", f"output_dir={folder}"]
    failed = subprocess.run(
        sweep(*given, program=(str(script),)), capture_output=True, text=True, timeout=600, env=ENVIRONMENT
    )
    assert failed.returncode == 1, failed.stderr
    assert "planted" in failed.stderr
    assert len(metrics(folder)) == 5
    rows = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert [row["reason"] for row in rows if row["reason"]] == ["'planted'"]

    again = subprocess.run(
        sweep(*given, "sweep.retry_failed=true"), capture_output=True, text=True, timeout=600, env=ENVIRONMENT
    )
    assert again.returncode == 0, again.stderr
    assert metrics(folder) == alone
    assert {path.name for path in folder.iterdir() if path.name.isdigit()} == set("012345")
    assert "classes" in (folder / "jobs/0.log").read_text()
    assert (folder / "report.html").is_file()


@pytest.mark.slow
def test_jobs_end_with_a_launcher_that_was_killed_and_go_on_with_the_same_command(shapes: str, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher")
    long = ["trainer.max_steps=40", "trainer.interval_unit=step", "trainer.checkpoint_every=10"]
    words = sweep(shapes, *long, "seed=0,1,2", "hydra/launcher=joblib", f"output_dir={tmp_path}")
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    while not (tmp_path / "1/checkpoints/last.pt").exists():
        assert first.poll() is None
        time.sleep(0.1)
    workers = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
    first.kill()
    first.wait()
    again = subprocess.run(words, capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    assert again.returncode == 0, again.stderr
    assert workers
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert "resumed" in (tmp_path / "jobs/1.log").read_text()
    for number in range(3):
        steps = [json.loads(line) for line in (tmp_path / f"{number}/metrics.jsonl").read_text().splitlines()]
        trained = [each["step"] for each in steps if "loss/total" in each]
        assert trained == sorted(set(trained)), trained
        assert trained[-1] == 40


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_queued_again_and_goes_on(shapes: str, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs hydra-submitit-launcher")
    words = sweep(shapes, "trainer.max_steps=40", "seed=0,1", "hydra/launcher=submitit_local", f"output_dir={tmp_path}")
    launcher = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    history = tmp_path / "0/metrics.jsonl"
    while not history.exists() or not history.read_text():
        assert launcher.poll() is None
        time.sleep(0.1)
    for process in subprocess.run(
        ["pgrep", "-f", f"submitit.core._submit {tmp_path}"], capture_output=True
    ).stdout.split():
        os.kill(int(process), signal.SIGUSR2)
    _, error = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, error
    assert "resumed" in (tmp_path / "jobs/0.log").read_text()
    assert [job.state for job in read_jobs(tmp_path)] == ["finished"] * 2


@pytest.mark.slow
def test_the_batch_file_for_slurm_asks_for_a_gpu_a_signal_and_the_given_queue(shapes: str, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs hydra-submitit-launcher")
    cluster = tmp_path / "bin"  # commands of SLURM that only note what they are given
    cluster.mkdir()
    for command, does in (("sbatch", f'cp "$1" {tmp_path}/batch.sh; echo "Submitted batch job 7"'), ("srun", "true")):
        (cluster / command).write_text(f"#!/bin/sh\n{does}\n")
        (cluster / command).chmod(0o755 | stat.S_IEXEC)
    words = sweep(shapes, "seed=0,1,2", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=night")
    environment = ENVIRONMENT | {"PATH": f"{cluster}:{os.environ['PATH']}"}
    waiting = subprocess.Popen(
        [*words, f"output_dir={tmp_path / 'sweep'}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    try:
        while not (tmp_path / "batch.sh").exists() or "srun" not in (tmp_path / "batch.sh").read_text():
            assert waiting.poll() is None, waiting.stderr.read() if waiting.stderr else ""
            time.sleep(0.1)
    finally:
        waiting.kill()
        waiting.communicate()
    text = (tmp_path / "batch.sh").read_text()
    asked = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {"array=0-2%3", "gpus-per-node=1", "partition=night", "time=1440", "signal=USR2@120"} <= asked
    assert "submitit.core._submit" in text
