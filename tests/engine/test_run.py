"""What a run leaves in its folder, however it ends, and how it goes on there."""

from __future__ import annotations

import errno
import importlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from small_coco import roboflow, small_coco
from tiny import TINY, untrained_checkpoint

from maskrcnn_train import load_config, train
from maskrcnn_train.engine import checkpoint, loop
from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.engine.precision import determinism
from maskrcnn_train.engine.run import _profiled
from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.prediction.predictor import Predictor
from maskrcnn_train.prediction.validation import Validation
from maskrcnn_train.reporting.tensorboard import read_metrics
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig


@pytest.fixture
def tiny(shapes: str, tmp_path: Path) -> Callable[..., TrainConfig]:
    settings = [*TINY, shapes, "trainer.interval_unit=step", f"output_dir={tmp_path / 'run'}"]
    return lambda *overrides: load_config([*settings, *overrides])


def test_a_run_that_stopped_early_is_finished(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Nothing reaches the score threshold, so no evaluation is better than the first."""
    settings = ("trainer.max_steps=6", "trainer.evaluate_every=1", "trainer.early_stopping=2")
    settings = (*settings, "roi_head.score_threshold=1")
    metrics = train(tiny(*settings)).metrics
    checkpoint = tmp_path / "run/checkpoints/last.pt"
    assert read_checkpoint(checkpoint)["position"]["step"] == 3
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != "train.log"}

    assert train(tiny(*settings, "resume=auto")).metrics == metrics
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != "train.log"} == written
    assert "It stopped early, after 2 evaluations" in (tmp_path / "run/train.log").read_text()

    train(tiny(*settings, "resume=auto", "trainer.early_stopping=0"))
    assert read_checkpoint(checkpoint)["position"]["step"] == 6


def test_an_unexpected_error_leaves_its_traceback_and_a_known_one_its_line_in_the_log(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        return list(zip([1], [1, 2], strict=True))

    monkeypatch.setattr(loop, "accumulate_gradients", broken)
    with pytest.raises(ValueError, match="longer"):
        train(tiny("trainer.max_steps=1"))
    log = (tmp_path / "run/train.log").read_text()
    assert "ERROR Traceback" in log
    assert "list(zip([1], [1, 2], strict=True))" in log

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop, "accumulate_gradients", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'run'}'"):
        train(tiny("trainer.max_steps=1", "resume=auto"))

    monkeypatch.undo()
    with pytest.raises(UserError, match="cannot be taken"):
        train(tiny("trainer.max_steps=9", "optimizer.lr=1e30", "resume=auto"))
    log = (tmp_path / "run/train.log").read_text()
    assert log.count("Traceback") == 1
    assert f"ERROR No space left on device: {tmp_path / 'run'}\n" in log
    assert "ERROR step 1 cannot be taken" in log


def test_the_next_step_is_taken_while_a_checkpoint_is_written(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, take_step, save = threading.Event(), loop.take_step, torch.save

    def taken(state: Any, *arguments: Any) -> Any:
        if state.position.step == 1:
            begun.set()
        return take_step(state, *arguments)

    def written(content: Any, file: Any) -> None:
        assert begun.wait(timeout=5)
        save(content, file)

    monkeypatch.setattr(loop, "take_step", taken)
    monkeypatch.setattr(checkpoint.torch, "save", written)
    train(tiny("trainer.max_steps=2", "trainer.checkpoint_every=1", "trainer.evaluate_every=0"))
    assert read_checkpoint(tmp_path / "run/checkpoints/last.pt")["position"]["step"] == 2


def test_an_error_leaves_the_checkpoint_whole_that_was_being_written(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step, save = loop.take_step, torch.save

    def failed(state: Any, *arguments: Any) -> Any:
        if state.position.step == 1:
            raise ZeroDivisionError
        return take_step(state, *arguments)

    def slow(content: Any, file: Any) -> None:
        time.sleep(0.5)
        save(content, file)

    monkeypatch.setattr(loop, "take_step", failed)
    monkeypatch.setattr(checkpoint.torch, "save", slow)
    with pytest.raises(ZeroDivisionError):
        train(tiny("trainer.max_steps=2", "trainer.checkpoint_every=1", "trainer.evaluate_every=0"))
    assert read_checkpoint(tmp_path / "run/checkpoints/last.pt")["position"]["step"] == 1
    assert not list(tmp_path.rglob("*.part"))


def test_a_disk_that_fills_up_in_mid_training_ends_it_at_the_next_step(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, take_step = [], loop.take_step

    def full(content: Any, file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def taken(state: Any, *arguments: Any) -> Any:
        steps.append(state.position.step)
        for thread in [each for each in threading.enumerate() if each.name.startswith("checkpoint")]:
            thread.join()
        return take_step(state, *arguments)

    monkeypatch.setattr(loop, "take_step", taken)
    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*last\.pt: No space left on device; is the disk full"):
        train(tiny("trainer.max_steps=9", "trainer.checkpoint_every=2", "trainer.evaluate_every=0"))
    assert steps == [0, 1, 2]


def test_a_run_that_ended_before_its_first_checkpoint_starts_afresh(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.take_step

    def taken(state: Any, *arguments: Any) -> Any:
        if state.position.step == 2:
            raise KeyboardInterrupt
        return original(state, *arguments)

    settings = ("trainer.max_steps=3", "trainer.checkpoint_every=0", "trainer.evaluate_every=0", "resume=auto")
    monkeypatch.setattr(loop, "take_step", taken)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*settings))
    assert not (tmp_path / "run/checkpoints").exists()
    monkeypatch.undo()
    train(tiny(*settings))
    assert [line["step"] for line in read_metrics(tmp_path / "run/metrics.jsonl") if "lr" in line] == [1, 2, 3]


@pytest.mark.parametrize("path", ["run", "run/checkpoints/last.pt"])
def test_a_run_without_its_last_checkpoint_is_not_begun_again(
    tiny: Callable[..., TrainConfig], tmp_path: Path, path: str
) -> None:
    train(tiny("trainer.max_steps=1"))
    for name in ("last", "previous"):
        (tmp_path / f"run/checkpoints/{name}.pt").unlink(missing_ok=True)
    best = (tmp_path / "run/checkpoints/best.pt").read_bytes()
    with pytest.raises(UserError, match=r"has no last\.pt to go on from"):
        train(tiny("trainer.max_steps=2", f"resume={tmp_path / path}"))
    assert (tmp_path / "run/checkpoints/best.pt").read_bytes() == best


def test_a_training_runs_in_a_thread_and_leaves_the_process_as_it_was(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    logger, handler = logging.getLogger("maskrcnn_train"), logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: told.append(record.getMessage()))
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "level", logging.ERROR)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with determinism(True), ThreadPoolExecutor() as pool:
        pool.submit(train, tiny("trainer.max_steps=1")).result()
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    assert (logger.handlers, logger.propagate, logger.level) == ([handler], True, logging.ERROR)
    assert told[-1].startswith("run: ")


@pytest.mark.parametrize("resume", ["null", "auto"])
def test_a_mistake_that_shows_late_leaves_no_folder(
    tiny: Callable[..., TrainConfig], tmp_path: Path, resume: str
) -> None:
    wrong = (f"resume={resume}", "weights=file", f"weights.path={tmp_path / 'nowhere.pt'}")
    with pytest.raises(UserError, match=r"nowhere\.pt does not exist"):
        train(tiny(*wrong))
    assert not (tmp_path / "run").exists()
    train(tiny("trainer.max_steps=1"))


def test_a_run_that_goes_on_says_that_it_takes_no_other_weights(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    weights = f"weights.path={untrained_checkpoint(tmp_path, 'backbone.norm=batch')}"
    settings = (weights, "resume=auto", "backbone.norm=batch", "backbone.trainable_stages=5")
    for steps, source in ((1, "file"), (2, "none")):
        train(tiny(f"trainer.max_steps={steps}", f"weights={source}", *settings))
    log = (tmp_path / "run/train.log").read_text()
    assert "weights=none has no effect: the run goes on from its checkpoint (it began with weights=file)" in log


def test_a_run_does_not_go_on_with_other_classes(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    train(tiny("trainer.max_steps=1", "data.classes=[star,ring]"))
    classes = (tmp_path / "run/classes.json").read_bytes()
    with pytest.raises(UserError, match=r"was trained for .*; the data now has "):
        train(tiny("trainer.max_steps=2", "data.classes=[ellipse,star]", f"resume={tmp_path / 'run'}"))
    assert (tmp_path / "run/classes.json").read_bytes() == classes


def test_a_run_goes_on_with_batches_so_large_that_none_of_its_epoch_is_left(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(tiny("trainer.max_steps=2"))
    train(tiny("trainer.max_steps=4", "trainer.batch_size=12", f"resume={tmp_path / 'run'}"))
    position = read_checkpoint(tmp_path / "run/checkpoints/last.pt")["position"]
    assert (position["step"], position["epoch"], position["batch"]) == (4, 3, 0)


def test_a_training_too_short_for_a_trace_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for steps, said in ((3, ["trainer.profile wrote no trace: it needs 7 steps in one go"]), (7, [])):
        caplog.clear()
        with caplog.at_level("WARNING", "maskrcnn_train"), _profiled(tmp_path / str(steps), enabled=True) as step:
            for _ in range(steps):
                step()
        assert [record.getMessage() for record in caplog.records] == said


def test_without_objects_to_score_the_last_weights_are_the_best(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(tmp_path / "cache"))
    roboflow(tmp_path / "data", small_coco(), {**small_coco(), "annotations": []})
    settings = ("trainer.max_steps=3", "trainer.evaluate_every=1", "trainer.early_stopping=1")
    train(tiny("data=roboflow", f"data.root={tmp_path / 'data'}", *settings))
    best, last = (read_checkpoint(tmp_path / f"run/checkpoints/{name}.pt") for name in ("best", "last"))
    assert last["position"]["step"] == 3
    assert all(torch.equal(weight, last["model"][name]) for name, weight in best["model"].items())
    assert (tmp_path / "run/train.log").read_text().count("best.pt holds the last weights") == 1


def test_an_evaluation_that_a_signal_broke_off_is_repeated(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in mid-training, and the last: the end is that of an undisturbed run."""
    settings = ("trainer.max_steps=2", "trainer.evaluate_every=1", "evaluation.batch_size=1")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(tiny(*settings, f"output_dir={whole}"))
    batches, detect = [0], Predictor.detect

    def stopped(predictor: Predictor, images: Any) -> Any:
        batches[0] += 1
        if batches[0] in (1, 4):  # the first of two images; after its repetition of two, that of the last
            signal.raise_signal(signal.SIGTERM)
        return detect(predictor, images)

    monkeypatch.setattr(Predictor, "detect", stopped)
    for step, done in ((1, 1), (2, 4)):
        with pytest.raises(Interrupted):
            train(tiny(*settings, "resume=auto"))
        assert batches[0] == done
        position = read_checkpoint(run / "checkpoints/last.pt")["position"]
        assert (position["step"], position["evaluating"]) == (step, True)
    train(tiny(*settings, "resume=auto"))
    assert (run / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    one, other = (read_checkpoint(folder / "checkpoints/best.pt") for folder in (whole, run))
    assert one["metrics"] == other["metrics"]
    assert one["position"]["best_step"] == other["position"]["best_step"]
    for folder in (whole, run):
        lines = read_metrics(folder / "metrics.jsonl")
        assert [line["step"] for line in lines if "segm/AP" in line] == [1, 2]


def test_a_finished_run_that_trains_longer_is_not_finished_before_its_new_results_are_there(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("trainer.evaluate_every=1", "resume=auto")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(tiny("trainer.max_steps=2", *settings, f"output_dir={whole}"))
    train(tiny("trainer.max_steps=1", *settings))
    detect, finishing = Predictor.detect, importlib.import_module("maskrcnn_train.train")

    def stopped(predictor: Predictor, images: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return detect(predictor, images)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for owner, name, fault, error in (
        (Predictor, "detect", stopped, Interrupted),  # in the last evaluation
        (finishing, "_finish", killed, KeyboardInterrupt),  # between the last checkpoint and the results
        (Validation, "write_predictions", killed, KeyboardInterrupt),
        (finishing, "report_training", killed, KeyboardInterrupt),
    ):
        monkeypatch.setattr(owner, name, fault)
        with pytest.raises(error):
            train(tiny("trainer.max_steps=2", *settings))
        monkeypatch.undo()
        assert not (run / "metrics.json").exists()
    train(tiny("trainer.max_steps=2", *settings))
    for name in ("metrics.json", "predictions.json"):
        assert (run / name).read_text() == (whole / name).read_text()
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if "segm/AP" in line] == [1, 2]
    one, other = (read_checkpoint(folder / "checkpoints/best.pt") for folder in (whole, run))
    assert one["metrics"] == other["metrics"]
