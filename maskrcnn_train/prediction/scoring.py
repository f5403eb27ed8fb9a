"""Scores of a checkpoint on a split, or of a results file, in one form."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskrcnn_train.data.coco.reader import open_index
from maskrcnn_train.data.coco.results import coco_content, read_results
from maskrcnn_train.data.coco.skipped import SkippedTable
from maskrcnn_train.data.loading import DetectionLoader, ScaledLoader, evaluation_loader
from maskrcnn_train.data.splits.choosing import with_choice
from maskrcnn_train.data.splits.splitting import Split, read_split
from maskrcnn_train.engine.distributed import ALONE
from maskrcnn_train.evaluation.coco.metrics import KIND_WORDS, MEASURES, CocoResult, score_coco
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics, diagnose
from maskrcnn_train.model.tta import TestTimeAugmentation
from maskrcnn_train.prediction.cost import slow_box_head
from maskrcnn_train.prediction.image_list import with_ids_of
from maskrcnn_train.prediction.predictor import Predictor, load_checkpoint, with_given
from maskrcnn_train.prediction.validation import Validation
from maskrcnn_train.reporting.terminal.tables import unused_table
from maskrcnn_train.settings.command_schema import (
    PIXELS,
    AnalyzeConfig,
    EvaluateConfig,
    LabelsConfig,
    MeasuresConfig,
    OnSplitConfig,
)
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import EvaluationConfig

logger = logging.getLogger("maskrcnn_train")
KEYS = {"bbox": "bbox", "segm": "segmentation"}  # where a result has each kind


@dataclass
class Scored:
    """metrics: fractions, with validation losses if asked for. ground_truth, results: as COCO has them."""

    metrics: dict[str, float]
    result: CocoResult
    ground_truth: dict[str, Any]
    results: list[dict[str, Any]]

    def diagnose(self, num_draws: int, seed: int) -> dict[str, Diagnostics]:
        """More than mAP, with intervals if there are draws."""
        return diagnose(self.ground_truth, self.results, self.result, num_draws=num_draws, seed=seed)


@dataclass
class Candidate:
    """Something to score, after its files were checked.

    score: by `evaluation`; tells on_batch how many images the model has done. why_slow: what makes it so, if a setting
    does.
    """

    ground_truth: dict[str, Any]
    evaluation: EvaluationConfig
    score: Callable[[EvaluationConfig, Callable[[int], None]], Scored]
    why_slow: str = ""


def open_on_split(path: Path, config: EvaluateConfig | AnalyzeConfig) -> tuple[Predictor, Split]:
    """A checkpoint with the settings of `config`, and the split to try it on.

    Raises UserError for a file that is no checkpoint and for faulty data.
    """
    predictor = load_checkpoint(path, device=config.device, precision=config.precision, settings=config)
    return on_split(predictor, config, num_workers=config.num_workers)


def on_split(
    predictor: Predictor, config: OnSplitConfig | LabelsConfig, *, num_workers: int
) -> tuple[Predictor, Split]:
    """A predictor with `data` and `evaluation` of `config`, and the split; size and tiles are those of its training."""
    trained = predictor.config
    own = {key: getattr(trained.data, key) for key in ("min_size", "max_size", "tile", *PIXELS)}
    trained = replace(
        trained,
        data=replace(with_choice(config.data, trained.data), **own),
        evaluation=with_given(trained.evaluation, config.evaluation),
        trainer=replace(trained.trainer, num_workers=num_workers),
    )
    split, notes = read_split(
        trained.data,
        config.split,
        predictor.classes,
        trained=predictor.config.data,
        with_masks=trained.mask_head.enabled,
    )
    for note in notes:
        logger.warning("%s", note)
    _tell_unused(split.name, split.skipped)
    return replace(predictor, config=trained), split


def _tell_unused(name: str, skipped: SkippedTable) -> None:
    if unused := unused_table({name: skipped}):
        logger.warning("%s", unused)


def open_checkpoint(path: Path, config: EvaluateConfig) -> Candidate:
    """Raises UserError for a file that is no checkpoint and for faulty data."""
    predictor, split = open_on_split(path, config)
    trained = predictor.config
    loader: DetectionLoader | ScaledLoader
    if config.tta.flip or config.tta.scales:
        predictor = replace(predictor, augmentation=TestTimeAugmentation(predictor.model, flip=config.tta.flip))
        loader = ScaledLoader(trained, split, predictor.classes, config.tta.scales or [trained.data.min_size])
    else:
        loader = evaluation_loader(trained, split, predictor.classes)
    return candidate_of(predictor, loader)


def candidate_of(predictor: Predictor, loader: DetectionLoader | ScaledLoader) -> Candidate:
    """A model on the images of a loader."""
    validation = Validation(loader, predictor.config, ALONE)

    def score(section: EvaluationConfig, on_batch: Callable[[int], None]) -> Scored:
        validation.config = replace(predictor.config, evaluation=section)
        metrics = validation.evaluate_predictor(predictor, on_batch)
        assert validation.result is not None
        return Scored(metrics, validation.result, validation.scored, validation.results)

    config = predictor.config
    return Candidate(validation.ground_truth, config.evaluation, score, slow_box_head(config))


def measure_alike(first: Candidate, second: Candidate) -> None:
    """Two to compare are scored by one rule: where their trainings differ, by the default, which is said."""
    differing = [name for name in MEASURES if getattr(first.evaluation, name) != getattr(second.evaluation, name)]
    shared = {name: getattr(default_config().evaluation, name) for name in differing}
    for each in (first, second):
        each.evaluation = replace(each.evaluation, **shared)
    if shared:
        given = ", ".join(f"evaluation.{name}={value}" for name, value in shared.items())
        logger.warning("a and b were trained with different measures; both are scored by the default %s", given)


def open_file(predictions: Path, annotations: Path, given: MeasuresConfig) -> Candidate:
    """A results file against a JSON; boxes and masks count where both have them. Raises UserError for faulty files.

    Images of our own `predict` are matched by file name where the ids differ.
    """
    index = open_index(annotations)
    _tell_unused(annotations.name, index.skipped)
    truth = coco_content(index)
    results = with_ids_of(truth, annotations, read_results(predictions), predictions)
    kinds = _common_kinds(predictions, results, annotations, truth)
    section = with_given(default_config().evaluation, given)  # a training's own are COCO's
    if not results:
        logger.warning("%s holds no detection: every score is 0", predictions)
    try:
        result = score_coco(truth, results, section, kinds=kinds)
    except UserError as error:
        raise UserError(f"{predictions}: {error}") from None
    return Candidate(truth, section, lambda *_: Scored(result.metrics, result, truth, results))


def _common_kinds(
    predictions: Path, results: list[dict[str, Any]], annotations: Path, truth: dict[str, Any]
) -> list[str]:
    """The kinds, bbox and segm, that every result and every object has. Raises UserError if there is none.

    null and [] count as missing: many programs always write both keys.
    """
    lacking = {kind: sum(not result.get(key) for result in results) for kind, key in KEYS.items()}
    kinds = [kind for kind, count in lacking.items() if not count]
    if not kinds:
        raise UserError(
            f"{predictions}: some results lack a bbox and some a segmentation; give every result the same one"
        )
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
