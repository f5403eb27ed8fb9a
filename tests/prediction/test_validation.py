"""One evaluation of a model, shared by several processes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import untrained_checkpoint

from maskrcnn_train import build_loaders, load_checkpoint
from maskrcnn_train.engine.distributed import ALONE, World
from maskrcnn_train.prediction import validation
from maskrcnn_train.prediction.results import validation_losses
from maskrcnn_train.prediction.validation import Validation


def test_a_rank_without_images_leaves_the_losses_to_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = load_checkpoint(untrained_checkpoint(tmp_path, "evaluation.loss=true"), device="cpu")
    alone = Validation(build_loaders(predictor.config).val, predictor.config, ALONE).evaluate_predictor(predictor)
    three = [build_loaders(predictor.config, rank=rank, world_size=3).val for rank in range(3)]
    assert [len(loader) for loader in three] == [1, 1, 0]  # of two images

    def gathered(value: list[Any], world: World) -> list[Any]:
        return [validation_losses(predictor, loader) for loader in three]

    monkeypatch.setattr(validation.distributed, "gather", gathered)
    shared = Validation(three[0], predictor.config, World(0, 3))._losses(predictor)
    assert shared == pytest.approx({name: alone[name] for name in alone if name.startswith("val_loss/")}, rel=0.5)


def test_losses_are_the_same_with_and_without_workers(tmp_path: Path) -> None:
    predictor = load_checkpoint(untrained_checkpoint(tmp_path, "evaluation.loss=true"), device="cpu")
    found = []
    for num_workers in (0, 1):
        config = replace(predictor.config, trainer=replace(predictor.config.trainer, num_workers=num_workers))
        with closing(build_loaders(config)) as loaders:
            found.append(Validation(loaders.val, config, ALONE).evaluate_predictor(predictor))
    assert found[0] == found[1]
