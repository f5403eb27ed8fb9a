"""What pruning saves in a search of real trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TINY

pytest.importorskip("optuna", reason="needs the extra tune")

from maskrcnn_train.reporting.tensorboard import read_metrics
from maskrcnn_train.settings.command_rules import check_tune_rules
from maskrcnn_train.settings.command_schema import TuneConfig
from maskrcnn_train.tune import tune
from maskrcnn_train.tuning.search import load_search

STEPS, TRIALS = 20, 12


@pytest.mark.slow
@pytest.mark.parametrize("pruning", ["median", "hyperband"])
def test_pruning_saves_a_third_of_the_steps(pruning: str, shapes: str, tmp_path: Path) -> None:
    """Learning rates over six decades, most of which learn nothing."""
    settings = [*TINY, shapes, "optimizer.lr=tag(log,interval(1e-7,1e-1))", "backbone.norm=group"]
    settings += [f"trainer.max_steps={STEPS}", "trainer.interval_unit=step", "trainer.evaluate_every=1"]
    settings += ["evaluation.loss=true", "metric=val_loss/total", "sampler=random", f"trials={TRIALS}"]
    settings += [f"pruning={pruning}", "unpruned=2", f"output_dir={tmp_path / 'search'}"]
    search, _ = load_search("tune", TuneConfig, check_tune_rules, settings, None)
    found = tune(search)
    assert len(found.records) == TRIALS
    taken = [len([line for line in read_metrics(log) if "lr" in line]) for log in found.folder.glob("*/metrics.jsonl")]
    print(f"{pruning}: {sum(taken)} of {STEPS * TRIALS} steps, {taken}")
    assert sum(taken) <= 0.7 * STEPS * TRIALS
    assert found.records[0].state == "complete"
