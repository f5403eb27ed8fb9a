"""Scores of a checkpoint on a split, or of a results file: the same outcome from both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from maskrcnn_train.data.coco.results import read_ground_truth, read_results
from maskrcnn_train.data.loading import DetectionLoader, ScaledLoader, evaluation_loader, scaled_loader
from maskrcnn_train.data.splits.splitting import Split, read_split
from maskrcnn_train.engine.distributed import ALONE
from maskrcnn_train.engine.validation import Validation
from maskrcnn_train.evaluation.coco.metrics import KIND_WORDS, CocoResult, score_coco
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics, diagnose
from maskrcnn_train.model.tta import AugmentedDetector
from maskrcnn_train.prediction.predictor import Predictor, load_checkpoint
from maskrcnn_train.settings.command_schema import AnalyzeConfig, EvaluateConfig, MeasuresConfig, OnSplitConfig
from maskrcnn_train.settings.compose import load_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import EvaluationConfig

logger = logging.getLogger("maskrcnn_train")
KEYS = {"bbox": "bbox", "segm": "segmentation"}  # where a result has each kind


@dataclass
class Scored:
    """metrics: fractions, with the validation losses if wanted. ground_truth, results: as COCO has them."""

    metrics: dict[str, float]
    result: CocoResult
    ground_truth: dict[str, Any]
    results: list[dict[str, Any]]

    def diagnose(self, num_draws: int, seed: int) -> dict[str, Diagnostics]:
        """More than mAP, with intervals if there are draws."""
        return diagnose(self.ground_truth, self.results, self.result, num_draws=num_draws, seed=seed)


@dataclass
class Candidate:
    """What is to be scored, its faults known. score: on_batch is told the number of images that a model has done."""

    ground_truth: dict[str, Any]
    score: Callable[[Callable[[int], None]], Scored]


def open_on_split(path: Path, config: EvaluateConfig | AnalyzeConfig) -> tuple[Predictor, Split]:
    """A checkpoint with the settings of `config`, and the split it is to be tried on.

    Raises UserError for a file that is no checkpoint and for faulty data.
    """
    predictor = load_checkpoint(path, device=config.device, number_format=config.precision, settings=config)
    predictor.config.evaluation = measures(config.evaluation, predictor.config.evaluation)
    predictor.config.trainer.num_workers = config.num_workers
    return predictor, split_for(predictor, config)


def measures(given: MeasuresConfig, otherwise: EvaluationConfig) -> EvaluationConfig:
    """The `evaluation` section of a training with every setting that is given."""
    return replace(otherwise, **{key: value for key, value in vars(given).items() if value is not None})


def split_for(predictor: Predictor, config: OnSplitConfig) -> Split:
    """The split to try a model on, of its own data or of `data`, at the network size of its training."""
    trained = predictor.config
    if config.data is not None:
        config.data.min_size, config.data.max_size = trained.data.min_size, trained.data.max_size
        trained.data = config.data
    with_masks = trained.mask_head.name != "none"
    split, notes = read_split(trained.data, config.split, predictor.classes, with_masks=with_masks)
    for note in notes:
        logger.warning("%s", note)
    return split


def open_checkpoint(path: Path, config: EvaluateConfig) -> Candidate:
    """Raises UserError for a file that is no checkpoint and for faulty data."""
    predictor, split = open_on_split(path, config)
    trained = predictor.config
    model: nn.Module = predictor.model
    loader: DetectionLoader | ScaledLoader
    if config.tta.flip or config.tta.scales:
        model = AugmentedDetector(predictor.model, flip=config.tta.flip)
        loader = scaled_loader(trained, split, predictor.classes, config.tta.scales or [trained.data.min_size])
    else:
        loader = evaluation_loader(trained, split, predictor.classes)
    validation = Validation(loader, trained, ALONE)

    def score(on_batch: Callable[[int], None]) -> Scored:
        metrics = validation.evaluate(model, on_batch)
        assert validation.result is not None
        return Scored(metrics, validation.result, validation.scored, validation.results)

    return Candidate(validation.ground_truth, score)


def open_file(predictions: Path, annotations: Path, given: MeasuresConfig) -> Candidate:
    """A results file against a JSON; boxes and masks count where both have them. Raises UserError for faulty files."""
    truth, results = read_ground_truth(annotations), read_results(predictions)
    kinds = _common_kinds(predictions, results, annotations, truth)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    section = measures(given, load_config().evaluation)  # a training's own are COCO's
    if not results:
        logger.warning("%s holds no detection: every score is 0", predictions)
    try:
        result = score_coco(truth, results, section, kinds=kinds, class_names=names)
    except UserError as error:
        raise UserError(f"{predictions}: {error}") from None
    return Candidate(truth, lambda on_batch: Scored(result.metrics, result, truth, results))


def _common_kinds(
    predictions: Path, results: list[dict[str, Any]], annotations: Path, truth: dict[str, Any]
) -> list[str]:
    """What every result and every object has: bbox, segm. Raises UserError if there is nothing in common.

    null and [] are no box and no mask: many programs always write both keys.
    """
    lacking = {kind: sum(not result.get(key) for result in results) for kind, key in KEYS.items()}
    kinds = [kind for kind, count in lacking.items() if not count]
    if not kinds:
        raise UserError(f"{predictions}: neither do all results have a bbox nor all a segmentation")
    for kind, count in lacking.items():
        if 0 < count < len(results):
            lost = "%s: %d of %d results have no %s: %s are not scored"
            logger.warning(lost, predictions, count, len(results), KEYS[kind], KIND_WORDS[kind])
    if "segm" in kinds and not all(annotation.get("segmentation") for annotation in truth["annotations"]):
        if "bbox" not in kinds:
            raise UserError(
                f"{annotations} has objects without masks, but {predictions} has masks only; "
                "give every result a bbox, or every object a mask"
            )
        logger.warning("%s has objects without masks: boxes only are scored", annotations)
        kinds.remove("segm")
    return kinds
