"""The loop alone: a model of one weight, whose gradient is the mean of its images; what is logged, saved, evaluated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_model import small_config
from torch import Tensor, nn

from maskrcnn_train.engine import loop
from maskrcnn_train.engine.distributed import ALONE
from maskrcnn_train.engine.failed_steps import FailedSteps
from maskrcnn_train.engine.loop import fit
from maskrcnn_train.engine.plan import Plan
from maskrcnn_train.engine.signals import StopRequest
from maskrcnn_train.engine.state import Position, TrainingState
from maskrcnn_train.engine.step import BadStep
from maskrcnn_train.reporting.terminal.progress import duration


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.body = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(0.0))
        self.kept, self.trained, self.drawn = list[bool](), list[bool](), list[float]()
        self.backbone: Any = SimpleNamespace(keep_body_statistics=self.kept.append)

    def forward(self, images: list[Tensor], targets: list[Any]) -> dict[str, Tensor]:
        self.drawn.append(float(torch.rand(())))
        self.trained.append(self.body.requires_grad)
        return {"loss_line": self.weight * torch.stack(images).mean(), "loss_body": self.body - self.body.detach()}


class Loader:
    """A batch for each of some numbers, with two images of it."""

    def __init__(self, *numbers: float) -> None:
        self.numbers, self.begun = numbers, list[tuple[int, int]]()

    def __len__(self) -> int:
        return len(self.numbers)

    def set_epoch(self, epoch: int, *, start_batch: int, percent: Any) -> None:
        self.begun.append((epoch, start_batch))

    def __iter__(self) -> Iterator[Any]:
        return iter([([torch.tensor(each)] * 2, [{}, {}]) for each in self.numbers[self.begun[-1][1] :]])


class Fitted:
    """A finished training. lines: what was logged, by step; last, best, evaluated: at which steps."""

    def __init__(
        self, *overrides: str, loader: Loader, scores: tuple[float, ...] = (), position: Position | None = None
    ) -> None:
        self.config = small_config("schedule=constant", "optimizer=sgd", "schedule.warmup_steps=0", *overrides)
        self.model, self.position = Line(), position or Position()
        groups = [
            {"params": [weight], "lr_factor": 1.0, "body": weight is self.model.body}
            for weight in (self.model.weight, self.model.body)
        ]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.state = TrainingState(self.model, optimizer, scaler, None, self.position)
        self.lines: dict[int, dict[str, float]] = {}
        self.last, self.best, self.evaluated = list[int](), list[int](), list[int]()
        self.left: list[str] = []
        self.loader, self.scores = loader, iter(scores)

    def run(self, folder: Path | None = None) -> Fitted:
        trainer = self.config.trainer
        about = {"config": {"seed": 0}}
        run: Any = SimpleNamespace(
            writer=SimpleNamespace(scalars=self.lines.__setitem__),
            progress=SimpleNamespace(update=lambda step, total, fields: self.left.append(fields["left"])),
            checkpoints=SimpleNamespace(
                save_last=lambda state, wait=True: self.last.append(state.position.step),
                save_best=lambda state, metrics, wait=True: self.best.append(state.position.step),
                finish=lambda: None,
            ),
            failed_steps=FailedSteps(folder or Path(), about=about, trainer=trainer, rank=0),
            after_step=lambda: None,
        )
        plan = Plan.of(trainer, len(self.loader))
        options: dict[str, Any] = {"plan": plan, "world": ALONE, "evaluate": self._evaluate, "run": run}
        fit(self.state, self.loader, self.config, **options, stop=StopRequest())
        return self

    def _evaluate(self, model: nn.Module, position: Position) -> tuple[float, dict[str, float]]:
        self.evaluated.append(position.step)
        return next(self.scores, 0.0), {}


EACH_STEP = ("trainer.interval_unit=step", "trainer.log_every=1", "trainer.checkpoint_every=0")


def test_the_best_weights_are_kept_and_early_stopping_counts_from_them() -> None:
    settings = (*EACH_STEP, "trainer.evaluate_every=1", "trainer.early_stopping=2")
    scores = (0.1, 0.3, -1.0, 0.2, 0.4, 0.4, 0.3, 0.9)  # -1: nothing to score
    done = Fitted(*settings, loader=Loader(*[1.0] * 9), scores=scores).run()
    assert done.best == [1, 2, 5]
    assert done.evaluated == [1, 2, 3, 4, 5, 6, 7]
    assert (done.position.best, done.position.best_step, done.position.stale_evaluations) == (0.4, 5, 2)


def test_intervals_of_epochs_end_with_the_pass_and_the_last_group_of_it_may_be_small() -> None:
    settings = ("trainer.epochs=5", "trainer.accumulate=2", "trainer.log_every=3")
    intervals = ("trainer.interval_unit=epoch", "trainer.evaluate_every=2", "trainer.checkpoint_every=1")
    done = Fitted(*settings, *intervals, loader=Loader(1.0, 3.0, 5.0)).run()
    assert done.loader.begun == [(epoch, 0) for epoch in range(5)]
    assert done.evaluated == [4, 8, 10]
    assert done.last == [2, 4, 6, 8, 10, 10]
    assert [*done.lines] == [3, 6, 9, 10]  # the last one whatever the interval
    assert done.model.weight.item() == pytest.approx(2 - 0.1 * 5 * (2 + 5))  # means of the groups


def test_the_learning_rate_and_the_rates_of_each_step_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = ("schedule=multistep", "schedule.milestones=[0.5]", "schedule.gamma=0.1", "schedule.warmup_steps=0")
    settings = (*EACH_STEP, *schedule, "trainer.max_steps=4", "trainer.accumulate=2", "trainer.evaluate_every=0")
    monkeypatch.setattr("maskrcnn_train.engine.meter.time.perf_counter", itertools.count(step=20.0).__next__)
    with caplog.at_level("INFO", "maskrcnn_train"):
        done = Fitted(*settings, loader=Loader(*[1.0] * 20)).run()
    assert [line["lr"] for line in done.lines.values()] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert done.model.weight.item() == pytest.approx(2 - 0.22)
    assert [line["loss/total"] for line in done.lines.values()] == pytest.approx([2.0, 1.9, 1.8, 1.79])
    for line in done.lines.values():
        assert line["images_per_second"] * line["time/step"] == pytest.approx(4)
    assert (done.left[0], done.left[3]) == (duration(3 * done.lines[1]["time/step"]), duration(0))
    waiting = 100 * done.lines[1]["time/data"] / done.lines[1]["time/step"]
    said = [record.getMessage()[:30] for record in caplog.records]  # once
    assert said == ["the training at this speed: 4 ", f"the model waits for data {waiting:.0f} % "]


def test_the_draws_of_a_step_follow_from_the_seed_and_its_number() -> None:
    settings = (*EACH_STEP, "trainer.evaluate_every=0", "trainer.max_steps=3")
    first, again, other = (
        Fitted(*settings, f"seed={seed}", loader=Loader(*[1.0] * 9)).run().model.drawn for seed in (0, 0, 1)
    )
    assert first == again
    assert len({*first, *other}) == 6


def test_a_resumed_training_goes_on_by_the_clock_and_in_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (*EACH_STEP, "trainer.evaluate_every=0", "trainer.max_minutes=1")
    before = Position(step=7, epoch=1, batch=2, seconds=50.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=itertools.count(step=4.0).__next__))
    done = Fitted(*settings, loader=Loader(*[1.0] * 5), position=before).run()
    assert done.loader.begun == [(1, 2)]
    assert (done.position.step, done.position.epoch, done.position.batch) == (10, 2, 0)


def test_only_failed_steps_in_a_row_end_a_training(tmp_path: Path) -> None:
    settings = (*EACH_STEP, "trainer.evaluate_every=0", "trainer.on_nonfinite=skip", "trainer.max_skipped=2")
    nan = float("nan")
    done = Fitted(*settings, "trainer.epochs=1", loader=Loader(nan, 1.0, nan, 1.0)).run(tmp_path / "a")
    assert (done.position.step, done.position.skipped_steps) == (4, 2)
    with pytest.raises(BadStep):
        Fitted(*settings, "trainer.epochs=1", loader=Loader(1.0, nan, nan, 1.0)).run(tmp_path / "b")


def test_the_body_trains_once_its_steps_of_waiting_are_over() -> None:
    settings = (*EACH_STEP, "trainer.evaluate_every=0", "trainer.max_steps=4", "trainer.heads_only_steps=2")
    model = Fitted(*settings, loader=Loader(*[1.0] * 9)).run().model
    assert model.trained == [False, False, True, True]
    assert model.kept == [True, True, False]
    assert (model.weight.item(), model.body.item()) == (pytest.approx(1.6), pytest.approx(-0.2))
