"""What goes wrong in mid-training is said in one line, kept for a look, and loses nothing."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY as SMALLEST

from maskrcnn_train import build_loaders, load_config, train
from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.loading import LostWorker
from maskrcnn_train.data.packing import PackedBatch
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.engine import failed_steps, loop
from maskrcnn_train.engine.checkpoint import read_checkpoint, save_plain
from maskrcnn_train.engine.replay import replay
from maskrcnn_train.engine.step import BadStep, OutOfMemory
from maskrcnn_train.prediction.validation import Validation
from maskrcnn_train.reporting.tensorboard import read_metrics
from maskrcnn_train.reporting.terminal.progress import Progress
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig

TINY = [*SMALLEST, "trainer.interval_unit=step", "trainer.max_steps=6"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.root={tmp_path_factory.mktemp('shapes')}"


@pytest.fixture
def tiny(shapes: str, tmp_path: Path) -> Callable[..., TrainConfig]:
    return lambda *overrides: load_config([*TINY, shapes, f"output_dir={tmp_path / 'run'}", *overrides])


# ---------------------------------------------------------------- steps that cannot be taken


def spoil_batches(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], None], *, steps: tuple[int, ...]) -> None:
    """Change what the training loader gives at some steps, counted from 0."""
    unpack = PackedBatch.unpack
    count = iter(range(1000))

    def changed(self: PackedBatch) -> Any:
        images, targets = unpack(self)
        if next(count) in steps:
            spoil(targets)
        return images, targets

    monkeypatch.setattr(PackedBatch, "unpack", changed)


def flatten_a_box(targets: Any) -> None:
    target = next(target for target in targets if len(target["boxes"]))
    target["boxes"][0, 2] = target["boxes"][0, 0]


def blow_up_a_box(targets: Any) -> None:
    """Both ends are numbers, its width is none."""
    target = next(target for target in targets if len(target["boxes"]))
    target["boxes"][0, 0], target["boxes"][0, 2] = -3e38, 3e38


@pytest.mark.parametrize("spoil", [flatten_a_box, blow_up_a_box])
def test_a_degenerate_target_is_named_kept_and_replayed(
    spoil: Callable[[Any], None], tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoil_batches(monkeypatch, spoil, steps=(2,))
    with pytest.raises(BadStep, match=r"step 2 cannot be taken: .*images \[.*replay=") as error:
        train(tiny("roi_head.class_balance=0.5"))
    assert "\n" not in str(error.value)
    found = replay(tmp_path / "run/autopsy/step_2.pt")
    assert found.reproduced
    assert found.reason == error.value.reason
    assert "object 0 of image" in found.cause
    assert "has the box" in found.cause
    assert "random samples" not in str(found)


def test_a_step_of_a_gpu_is_replayed_without_one_and_says_that_its_samples_differ(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoil_batches(monkeypatch, flatten_a_box, steps=(0,))
    with pytest.raises(BadStep):
        train(tiny())
    path = tmp_path / "run/autopsy/step_0.pt"
    content = torch.load(path, weights_only=True)
    assert content["device"] == "cpu"
    save_plain({**content, "device": "cuda"}, path)
    found = replay(path)
    assert found.reproduced
    assert "ran on a GPU; without one it gets other random samples" in str(found)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("batches", None, "it has no batches"), ("lr", None, "it has no lr"), ("batches", [{"images": []}], "targets")],
)
def test_an_incomplete_failed_step_is_named(key: str, value: object, said: str, tmp_path: Path) -> None:
    whole = dict.fromkeys(failed_steps.KEYS, 0) | {"format": failed_steps.FORMAT, "batches": []}
    content = {**whole, "classes": {"names": ["a"], "ids": [1]}, key: value}
    save_plain({name: each for name, each in content.items() if each is not None}, tmp_path / "step_1.pt")
    with pytest.raises(UserError, match=rf"step_1\.pt is incomplete: .*{said}"):
        replay(tmp_path / "step_1.pt")


def test_a_huge_learning_rate_is_the_cause(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    settings = ("optimizer.lr=1e6", "schedule.warmup_steps=0", "trainer.clip_norm=0", "trainer.max_steps=20")
    with pytest.raises(BadStep) as error:
        train(tiny("optimizer=sgd", "optimizer.scale_lr=false", *settings))
    found = replay(tmp_path / f"run/autopsy/step_{error.value.step}.pt")
    assert found.reproduced
    assert "lower optimizer.lr" in found.cause
    assert found.module is not None or "weights were not finite" in found.cause or "not finite" in found.reason


def test_skipping_leaves_the_weights_and_goes_on(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoil_batches(monkeypatch, blow_up_a_box, steps=(1, 2))
    train(tiny("trainer.on_nonfinite=skip", "trainer.max_steps=4"))
    state = read_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert state["position"]["skipped_steps"] == 2
    assert state["position"]["step"] == 4
    assert all(bool(torch.isfinite(each.float()).all()) for each in state["model"].values())
    assert len(list((tmp_path / "run/autopsy").iterdir())) == 2


def test_the_average_follows_the_weights_over_a_skipped_step(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The fifth step, of every fourth at which it does, is skipped: the average is not two times as far behind."""
    spoil_batches(monkeypatch, blow_up_a_box, steps=(4,))
    train(tiny("trainer.on_nonfinite=skip", "trainer.max_steps=5", "trainer.ema=1e-9"))
    state = read_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert state["position"]["skipped_steps"] == 1
    assert all(torch.equal(each, state["ema"][name]) for name, each in state["model"].items())


def test_a_fault_that_comes_back_does_not_fill_the_disk(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(failed_steps, "MOST_KEPT", 2)
    spoil_batches(monkeypatch, blow_up_a_box, steps=(1, 3, 5))
    train(tiny("trainer.on_nonfinite=skip", "trainer.max_steps=7"))
    assert sorted(path.name for path in (tmp_path / "run/autopsy").iterdir()) == ["step_1.pt", "step_3.pt"]
    assert "skipped, not kept" in (tmp_path / "run/train.log").read_text()


def test_skipping_gives_up_in_the_end(tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_batches(monkeypatch, blow_up_a_box, steps=tuple(range(100)))
    with pytest.raises(BadStep, match="step 2 "):
        train(tiny("trainer.on_nonfinite=skip", "trainer.max_skipped=3"))


# ---------------------------------------------------------------- memory and workers


def test_out_of_memory_names_the_batch_and_saves(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = loop.accumulate_gradients

    def full(*arguments: Any, **options: Any) -> Any:
        if options["step"] == 3:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "accumulate_gradients", full)
    with pytest.raises(OutOfMemory, match=r"step 3: images \[.*objects, 64 x 64 pixels.*trainer.batch_size"):
        train(tiny())
    assert read_checkpoint(tmp_path / "run/checkpoints/last.pt")["position"]["step"] == 3


def test_a_killed_worker_is_said_and_the_state_saved(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = loop.accumulate_gradients

    def kill_a_worker(*arguments: Any, **options: Any) -> Any:
        if options["step"] == 1:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            workers = [pid for pid in children if b"pt_data" in Path(f"/proc/{pid}/comm").read_bytes()]
            for pid in workers:
                os.kill(int(pid), signal.SIGKILL)
            assert workers
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "accumulate_gradients", kill_a_worker)
    with pytest.raises(LostWorker, match=r"trainer\.num_workers"):
        train(tiny("trainer.num_workers=1", "trainer.max_steps=100", "trainer.checkpoint_every=1"))
    assert read_checkpoint(tmp_path / "run/checkpoints/last.pt")["position"]["step"] >= 1


# ---------------------------------------------------------------- between steps


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_that_cannot_be_read_loses_no_step(
    split: str, tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = (f"data.root={tmp_path}", "trainer.epochs=1", "trainer.checkpoint_every=0")
    read_splits(tiny(*settings))  # makes the images
    images = {path: path.read_bytes() for path in tmp_path.rglob(f"{split}/*.jpg")}
    for path in images:
        path.write_bytes(images[path][:-200])
    if split == "train":  # those of the first step are sound
        monkeypatch.setattr(loop, "_grouped", lambda batches, size: itertools.chain([[sound]], batches))
        sound = next(iter(build_loaders(tiny(*settings)).val))
    with pytest.raises(ImageError, match=f"{split}/"):
        train(tiny(*settings))
    position = read_checkpoint(tmp_path / "run/checkpoints/last.pt")["position"]
    assert (position["step"], position["evaluating"]) == ((1, False) if split == "train" else (3, True))


def test_a_step_that_is_half_taken_is_not_saved(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    apply = loop.apply_gradients

    def fail(*arguments: Any, **options: Any) -> None:
        apply(*arguments, **options)
        raise MemoryError

    monkeypatch.setattr(loop, "apply_gradients", fail)
    with pytest.raises(MemoryError):
        train(tiny("trainer.checkpoint_every=0"))
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_training_that_is_killed_in_an_evaluation_repeats_only_that(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = ("trainer.max_steps=3", "trainer.checkpoint_every=2", "trainer.evaluate_every=2", "resume=auto")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(tiny(*settings, f"output_dir={whole}"))

    def killed(*_: object) -> None:  # after the evaluation has written its scores
        raise KeyboardInterrupt

    monkeypatch.setattr(Validation, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*settings))
    monkeypatch.undo()
    assert read_checkpoint(run / "checkpoints/last.pt")["position"]["step"] == 2
    train(tiny(*settings))
    assert (run / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    scores, losses = (
        [line["step"] for line in read_metrics(run / "metrics.jsonl") if key in line] for key in ("segm/AP", "lr")
    )
    assert (scores, losses) == ([2, 3], [1, 2, 3])


def test_an_error_between_a_step_and_its_evaluation_does_not_lose_the_evaluation(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = ("trainer.max_steps=3", "trainer.checkpoint_every=0", "trainer.evaluate_every=2", "resume=auto")

    def fail(*_: object) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(Progress, "update", fail)  # of the log
    train_to_the_end = tiny(*settings, "trainer.log_every=2")
    with pytest.raises(UserError, match="no space left"):
        train(train_to_the_end)
    monkeypatch.undo()
    train(train_to_the_end)
    found = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in found if "segm/AP" in line] == [2, 3]


@pytest.mark.parametrize(("fault", "said"), [(KeyError("a bug"), "a bug"), (UserError("a mistake"), "cannot write")])
def test_a_state_that_cannot_be_saved_is_said_beside_a_bug_and_in_place_of_a_mistake(
    fault: Exception, said: str, tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise fault

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Validation, "draw", fail)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(type(fault), match=said) as error:
        train(tiny("trainer.max_steps=1", "trainer.checkpoint_every=0"))
    assert "last.pt: No space left" in "".join(traceback.format_exception_only(error.value))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("damage", ["truncated", pytest.param("bit flipped", marks=pytest.mark.slow)])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    damage: str, tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(tiny("trainer.checkpoint_every=2", "trainer.max_steps=4"))
    last = tmp_path / "run/checkpoints/last.pt"
    content = bytearray(last.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    last.write_bytes(content)
    train(tiny("trainer.checkpoint_every=2", "trainer.max_steps=6", f"resume={tmp_path / 'run'}"))
    (line,) = [line for line in (tmp_path / "run/train.log").read_text().splitlines() if "going on from" in line]
    assert "damaged" in line or "cannot be read" in line
    steps = [line["step"] for line in read_metrics(tmp_path / "run/metrics.jsonl") if "lr" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_leaves_the_checkpoint_before_and_ends_with_one_line(
    tiny: Callable[..., TrainConfig], shapes: str, tmp_path: Path
) -> None:
    train(tiny("trainer.max_steps=2", "trainer.checkpoint_every=1"))
    before = (tmp_path / "run/checkpoints/last.pt").read_bytes()
    command = [
        sys.executable,
        "-m",
        "maskrcnn_train",
        *TINY,
        shapes,
        "trainer.max_steps=4",
        "trainer.checkpoint_every=1",
    ]
    limit = len(before) // 2
    done = subprocess.run(
        [*command, f"resume={tmp_path / 'run'}"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=900,
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "last.pt" in line
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run/checkpoints/last.pt").read_bytes() == before
    assert not list((tmp_path / "run/checkpoints").glob("*.part"))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(shapes: str, tmp_path: Path) -> None:
    """Three SIGKILLs, two loading processes, images that grow; equal to the last bit, optimizer included."""
    settings = [*TINY, shapes, "trainer.num_workers=2", "trainer.checkpoint_every=1", "trainer.max_steps=12"]
    settings += ["trainer.evaluate_every=0", "augmentation.start_scale=0.75"]
    folder = tmp_path / "killed"
    for step in (2, 4, 7):
        process = subprocess.Popen(
            [sys.executable, "-m", "maskrcnn_train", *settings, f"output_dir={folder}", "resume=auto"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while _last_step(folder) < step:
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    train(load_config([*settings, f"output_dir={folder}", "resume=auto"]))
    train(load_config([*settings, f"output_dir={tmp_path / 'whole'}"]))
    killed, whole = (read_checkpoint(path / "checkpoints/last.pt") for path in (folder, tmp_path / "whole"))
    for name, weight in whole["model"].items():
        assert torch.equal(weight, killed["model"][name]), name
    for number, values in whole["optimizer"]["state"].items():
        for name, value in values.items():
            assert torch.equal(value, killed["optimizer"]["state"][number][name]), (number, name)


def _last_step(folder: Path) -> int:
    """Of the newest complete checkpoint, by the JSON beside it."""
    try:
        return int(json.loads((folder / "checkpoints/last.json").read_text())["position"]["step"])
    except (OSError, ValueError):
        return 0
