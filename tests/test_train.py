"""One training from the command to its folder, on few small images: train, stop, resume, evaluate, look."""

from __future__ import annotations

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import TINY as SMALLEST

from maskrcnn_train import build_model, load_config, train
from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.reporting.tensorboard import read_metrics

TINY = [*SMALLEST, "data.shapes.num_val=4", "evaluation.pictures=2"]


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maskrcnn_train", *arguments], capture_output=True, text=True, cwd=cwd, timeout=1500
    )


def test_a_run_leaves_everything_in_its_folder(run_dir: Path) -> None:
    names = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*")}
    expected = ["config.yaml", "overrides.yaml", "train.log", "metrics.jsonl", "metrics.json", "classes.json"]
    expected += ["predictions.json", "report.html", "checkpoints/last.pt", "checkpoints/last.json"]
    expected += ["checkpoints/best.pt", "checkpoints/best.json"]
    assert not set(expected) - names
    assert len(list(run_dir.glob("events.out.tfevents.*"))) == 1
    assert len(list(run_dir.glob("pictures/*.jpg"))) == 2


def test_each_evaluation_is_told_with_the_share_that_is_done(shapes: str, tmp_path: Path) -> None:
    told: list[float] = []

    def stop_at_half(share: float, metrics: dict[str, float]) -> None:
        told.append(share)
        assert "segm/AP" in metrics
        if share >= 0.5:
            raise KeyError("enough")

    settings = ["trainer.max_steps=4", "trainer.interval_unit=step", "trainer.evaluate_every=1"]
    with pytest.raises(KeyError, match="enough"):
        train(load_config([*SMALLEST, shapes, *settings, f"output_dir={tmp_path / 'run'}"]), on_evaluation=stop_at_half)
    assert told == [0.25, 0.5]


def test_metrics_hold_the_twelve_numbers_of_each_kind_and_each_class(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    for kind in ("bbox", "segm"):
        names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
        assert {f"{kind}/{name}" for name in names} <= set(metrics)
        assert sum(key.startswith(f"{kind}/AP/") for key in metrics) == 6


def test_every_log_line_has_losses_rates_and_the_learning_rate(run_dir: Path) -> None:
    lines = [line for line in read_metrics(run_dir / "metrics.jsonl") if "lr" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    keys = {"loss/classifier", "loss/mask", "loss/total", "time/step", "time/data", "images_per_second"}
    assert keys <= set(lines[0])


def test_a_stopped_and_resumed_run_ends_with_the_same_weights(run_dir: Path, shapes: str, tmp_path: Path) -> None:
    """The second sitting begins inside an epoch of three steps."""
    folder = tmp_path / "run"
    settings = ["trainer.max_steps=4", "trainer.ema=0.995", "trainer.interval_unit=step", f"output_dir={folder}"]
    config = load_config([*TINY, shapes, *settings])

    class Stopped(Exception):
        pass

    from maskrcnn_train.engine import loop

    original = loop.apply_gradients
    steps = []

    def apply_then_stop(*arguments: object, **options: object) -> object:
        if len(steps) == 2:
            raise Stopped
        steps.append(1)
        return original(*arguments, **options)  # type: ignore[arg-type]

    loop.apply_gradients = apply_then_stop  # type: ignore[assignment]
    try:
        with pytest.raises(Stopped):
            train(config)
    finally:
        loop.apply_gradients = original
    assert read_checkpoint(folder / "checkpoints/last.pt")["position"]["step"] == 2
    config.resume = str(folder)
    train(config)
    whole, resumed = (read_checkpoint(path / "checkpoints/last.pt") for path in (run_dir, folder))
    for name, weight in whole["model"].items():
        assert torch.equal(weight, resumed["model"][name]), name
    for name, average in whole["ema"].items():
        assert torch.equal(average, resumed["ema"][name]), name
    lines = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if "lr" in line]
    assert lines == [1, 2, 3, 4]


def test_synchronised_batch_norms_of_a_single_process_are_told(shapes: str, tmp_path: Path) -> None:
    settings = ["trainer.max_steps=1", "trainer.sync_batchnorm=true", f"output_dir={tmp_path / 'run'}"]
    train(load_config([*SMALLEST, shapes, *settings]))
    assert "trainer.sync_batchnorm=true has no effect here" in (tmp_path / "run/train.log").read_text()


def test_a_finished_run_is_left_alone(run_dir: Path, shapes: str) -> None:
    before = (run_dir / "checkpoints/last.pt").stat().st_mtime_ns
    result = train(load_config([*TINY, shapes, "trainer.max_steps=4", f"resume={run_dir}"]))
    assert result.metrics == json.loads((run_dir / "metrics.json").read_text())
    assert (run_dir / "checkpoints/last.pt").stat().st_mtime_ns == before


def test_boxes_only_has_no_mask_numbers(shapes: str, tmp_path: Path) -> None:
    overrides = [*TINY, shapes, "mask_head=none", "trainer.max_steps=1", f"output_dir={tmp_path / 'run'}"]
    metrics = train(load_config(overrides)).metrics
    assert "bbox/AP" in metrics
    assert not [key for key in metrics if key.startswith("segm")]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_saves_and_leaves_with_128_plus_its_number(workers: int, shapes: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*TINY, shapes, "trainer.checkpoint_every=0", "trainer.evaluate_every=0", f"output_dir={folder}"]
    arguments.append(f"trainer.num_workers={workers}")
    process = subprocess.Popen(
        [sys.executable, "-m", "maskrcnn_train", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 1200
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # as terminals, timeout and SLURM do: the workers get it too
    began = time.monotonic()
    _, error = process.communicate(timeout=900)
    assert time.monotonic() - began < 50  # no worker is waited for
    assert process.returncode == 128 + signal.SIGTERM
    assert b"resume=" in error
    assert b"Traceback" not in error
    assert read_checkpoint(folder / "checkpoints/last.pt")["position"]["step"] >= 1


LACKING = """
import signal, sys
for name in ("SIGALRM", "SIGHUP", "SIGPIPE", "SIGURG", "SIGUSR1", "SIGUSR2", "alarm", "pthread_sigmask", "setitimer"):
    delattr(signal, name)
sys.modules |= dict.fromkeys(("grp", "pwd", "resource", "termios"))
from maskrcnn_train import load_config, train
train(load_config(sys.argv[1:]))
"""


def test_a_training_needs_nothing_of_python_that_windows_lacks(shapes: str, tmp_path: Path) -> None:
    settings = ["trainer.num_workers=1", "trainer.max_steps=2", f"output_dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", LACKING, *TINY, shapes, *settings], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    first = read_metrics(tmp_path / "run/metrics.jsonl")[0]
    assert first["memory/peak_mb"] is None
    assert (tmp_path / "run/metrics.json").is_file()


def test_a_signal_after_the_last_step_is_raised_once_all_is_written(
    shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("maskrcnn_train.train")
    finish = module._finish
    monkeypatch.setattr(module, "_finish", lambda *given: (finish(*given), signal.raise_signal(signal.SIGTERM)))
    with pytest.raises(Interrupted, match="SIGTERM") as stopped:
        train(load_config([*TINY, shapes, "trainer.max_steps=1", f"output_dir={tmp_path}"]))
    assert stopped.value.hint == "this training is complete"
    assert (tmp_path / "metrics.json").is_file()


@pytest.mark.slow
def test_a_signal_ends_a_sweep(shapes: str, tmp_path: Path) -> None:
    arguments = [*TINY, shapes, "trainer.max_steps=200", "seed=0,1", f"output_dir={tmp_path / 'sweep'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "maskrcnn_train", "-m", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    history = tmp_path / "sweep/0/metrics.jsonl"
    while not history.exists() or not history.read_text():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert (tmp_path / "sweep/0/checkpoints/last.pt").exists()
    assert not (tmp_path / "sweep/1").exists()


@pytest.mark.slow
def test_a_sweep_has_a_folder_for_each_job_and_a_table(shapes: str, tmp_path: Path) -> None:
    done = command("-m", *TINY, shapes, "rpn.nms.post_train=20,40", "trainer.max_steps=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "runs/sweep").iterdir()
    assert {"0", "1", "sweep.csv", "report.html"} <= {path.name for path in sweep.iterdir()}
    rows = list(csv.DictReader((sweep / "sweep.csv").read_text().splitlines()))
    assert {row["rpn.nms.post_train"] for row in rows} == {"20", "40"}
    assert all((sweep / job / "metrics.json").exists() for job in "01")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{not json", "is not JSON"),
        (
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "gone.jpg", "width": 10, "height": 10}],
                    "annotations": [],
                    "categories": [{"id": 1, "name": "a"}],
                }
            ),
            "gone.jpg",
        ),
    ],
)
def test_a_bad_annotation_file_is_one_line_and_code_2(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(content)
    paths = [f"data.{split}.{key}" for split in ("train", "val") for key in ("images", "annotations")]
    values = [tmp_path, tmp_path / "bad.json"] * 2
    done = command("data=custom", *(f"{path}={value}" for path, value in zip(paths, values, strict=True)))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr


@pytest.fixture
def tensorboard(run_dir: Path) -> Iterator[str]:
    """The address of a TensorBoard that shows the run."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(run_dir.parent), "--port", "0", "--load_fast=false"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    address = None
    for line in process.stderr:
        if "http://" in line:
            address = "http://" + line.split("http://")[1].split()[0].rstrip("/")
            break
    assert address, "TensorBoard did not start"
    try:
        yield address.replace(address.split("//")[1].split(":")[0], "127.0.0.1")
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_tensorboard_shows_losses_learning_rate_scores_and_pictures(tensorboard: str) -> None:
    def fetch(path: str) -> dict[str, dict[str, object]]:
        with urllib.request.urlopen(f"{tensorboard}/data/plugin/{path}", timeout=300) as answer:
            return json.load(answer)

    for _ in range(600):
        scalars = fetch("scalars/tags")
        if scalars:
            break
        time.sleep(0.5)
    (tags,) = scalars.values()
    assert {"loss/total", "loss/mask", "lr", "bbox/AP", "segm/AP50"} <= set(tags)
    (pictures,) = fetch("images/tags").values()
    assert any(tag.startswith("predictions/") for tag in pictures)


def test_a_trace_validation_losses_latency_and_heads_first_come_with_their_keys(
    shapes: str, run_dir: Path, tmp_path: Path
) -> None:
    overrides = ["trainer.max_steps=9", "trainer.heads_only_steps=9", "trainer.profile=true", "evaluation.loss=true"]
    overrides += ["trainer.accumulate=2", "evaluation.latency=true"]
    metrics = train(load_config([*TINY, shapes, *overrides, f"output_dir={tmp_path / 'run'}"])).metrics
    assert metrics["val_loss/total"] == pytest.approx(
        sum(value for name, value in metrics.items() if name.startswith("val_loss/") and name != "val_loss/total")
    )
    assert json.loads((tmp_path / "run/metrics.json").read_text())["latency"] == metrics["latency"] > 0
    assert "latency" not in json.loads((run_dir / "metrics.json").read_text())
    assert json.loads((tmp_path / "run/profile/trace.json").read_text())["traceEvents"]
    lines = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if "lr" in line]
    for name in (
        "rpn/positive_anchors",
        "rpn/proposals_kept",
        "roi/foreground_share",
        "roi/mask_accuracy",
        "gradient_norm",
    ):
        assert all(line[name] >= 0 for line in lines), name
    torch.manual_seed(0)
    fresh = build_model(load_config([*TINY, shapes, *overrides]), num_classes=7)
    trained = read_checkpoint(tmp_path / "run/checkpoints/last.pt")["model"]
    for name, tensor in fresh.state_dict().items():  # with the statistics of batch norms
        assert torch.equal(trained[name], tensor) == name.startswith("backbone.body."), name


def test_pictures_show_what_reaches_their_threshold(shapes: str, tmp_path: Path) -> None:
    drawn = {}
    for threshold in ("0", "1"):
        settings = ["trainer.max_steps=1", "roi_head.score_threshold=0", f"evaluation.picture_threshold={threshold}"]
        folder = train(load_config([*TINY, shapes, *settings, f"output_dir={tmp_path / threshold}"])).run_dir
        drawn[threshold] = [path.read_bytes() for path in sorted(folder.glob("pictures/*.jpg"))]
    predictions = [(tmp_path / threshold / "predictions.json").read_bytes() for threshold in drawn]
    assert predictions[0] == predictions[1]
    assert len(drawn["0"]) == len(drawn["1"]) == 2
    assert all(low != high for low, high in zip(drawn["0"], drawn["1"], strict=True))
