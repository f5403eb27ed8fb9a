"""`python -m maskrcnn_train.labels`: doubtful labels, found by models that have not seen them."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.data.splits.classes import categories_in
from maskrcnn_train.data.splits.splitting import Split, Splits, read_training_split
from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.files import write_json
from maskrcnn_train.labelling.folds import FOLDS_FILE, cut_folds, readable, remember
from maskrcnn_train.prediction.memory import advising_on_memory
from maskrcnn_train.settings.command_rules import check_labels_rules
from maskrcnn_train.settings.command_schema import LabelsConfig, training_of
from maskrcnn_train.settings.overrides import quoted

if TYPE_CHECKING:
    from maskrcnn_train.labelling.suspicion import Doubt
    from maskrcnn_train.prediction.scoring import Scored
    from maskrcnn_train.reporting.pages.gallery import Scene
    from maskrcnn_train.settings.schema import TrainConfig
    from maskrcnn_train.structures.classes import ClassMap

HELP = """
Find doubtful labels: missing, spurious, of the wrong class, loose boxes, poor masks, doubled. Several models are
trained, and each judges the images that it has not seen. It takes the keys of a training.

  python -m maskrcnn_train.labels experiment=finetune data=roboflow data.root=DIR
  python -m maskrcnn_train.labels experiment=finetune data=roboflow data.root=DIR folds=3 suspicion=0.3
  python -m maskrcnn_train.labels checkpoint=RUN/checkpoints/best.pt data=roboflow data.root=DIR split=val

To continue, repeat the command with output_dir=FOLDER. To train without the doubtful labels:

  python -m maskrcnn_train experiment=finetune data=roboflow data.root=DIR data.exclude=FOLDER/doubts.json
"""
LOG_FILE = "labels.log"
logger = logging.getLogger("maskrcnn_train")
FAINT = 0.01  # score from which a detection says something about a label
RESULTS = "predictions.json"  # of a fold, and of all together


@dataclass
class LabelsResult:
    """doubts: the most suspicious first. metrics: of all images, each judged by the model that had not seen it."""

    doubts: list[Doubt]
    metrics: dict[str, float]
    folder: Path


@dataclass
class Judged:
    """Labels and what was detected on their images. config: that of the model."""

    split: Split
    classes: ClassMap
    config: TrainConfig
    scored: Scored


def find_doubtful_labels(config: LabelsConfig) -> LabelsResult:
    """Judge the labels as configured and write everything into the folder.

    Raises UserError for the person's mistakes, Interrupted after a signal.
    """
    if config.checkpoint is not None:
        folder, judged = _judge_by_checkpoint(config, Path(config.checkpoint))
    else:
        folder, judged = _judge_by_folds(config)
    return _write(config, folder, judged)


# ---------------------------------------------------------------- detections on images that no model has seen


def _judge_by_folds(config: LabelsConfig) -> tuple[Path, Judged]:
    """Train the models that are not there yet; every image with the detections of the one that has not seen it."""
    from maskrcnn_train.reporting.runs import SCORES_FILE
    from maskrcnn_train.reporting.terminal.progress import setup_logging

    whole, classes, notes = read_training_split(config)
    folds = cut_folds(whole, classes, folds=config.folds, seed=config.seed)
    folder = _open_folder(config, whole)
    head = replace(config.roi_head, score_threshold=min(config.roi_head.score_threshold, FAINT))
    training = replace(training_of(config), roi_head=head)
    quiet = replace(training, evaluation=replace(training.evaluation, study=False))  # all folds are studied together
    setup_logging(folder / LOG_FILE)
    for number, splits in enumerate(folds):
        run_dir = folder / f"fold_{number}"
        if not all((run_dir / name).is_file() for name in (RESULTS, SCORES_FILE)):
            (run_dir / SCORES_FILE).unlink(missing_ok=True)  # alone they would count as the end of the training
            logger.info("fold %d of %d: %d images to judge", number + 1, len(folds), len(splits.val))
            _train(replace(quiet, output_dir=str(run_dir)), replace(splits, notes=notes), folder)
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)  # large, and of no more use
    return folder, Judged(whole, classes, training, _score(training, whole, classes, folder, len(folds)))


def _open_folder(config: LabelsConfig, whole: Split) -> Path:
    """A new folder, or that of a command to continue. Raises UserError where it holds anything else."""
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.settings.compose import default_config
    from maskrcnn_train.settings.overrides import overrides_of

    if config.output_dir is not None and (Path(config.output_dir) / FOLDS_FILE).is_file():
        folder = Path(config.output_dir)
    else:
        folder = open_run_folder(config.output_dir, "labels")
    free = ("suspicion=", "pictures=", "split=", "trainer.device=", "trainer.num_workers=", "evaluation.")
    settings = [text for text in overrides_of(config, default_config()) if not text.startswith(free)]
    remember(folder, whole, settings)
    return folder


def _train(config: TrainConfig, splits: Splits, folder: Path) -> None:
    """Train one model, or go on with it."""
    from maskrcnn_train.train import train

    config = replace(config, resume="auto" if Path(str(config.output_dir)).exists() else None)
    try:
        train(config, splits)
    except Interrupted as interrupted:
        interrupted.hint = f"go on with the same command and output_dir={folder}"
        raise


def _score(config: TrainConfig, whole: Split, classes: ClassMap, folder: Path, num_folds: int) -> Scored:
    """The detections of all folds, scored once."""
    from maskrcnn_train.data.coco.results import read_results
    from maskrcnn_train.data.loading import evaluation_loader
    from maskrcnn_train.evaluation.coco.metrics import score_coco
    from maskrcnn_train.prediction.scoring import Scored

    dataset = evaluation_loader(config, whole, classes).dataset
    truth = dataset.ground_truth()
    if config.data.on_bad_image == "skip":
        truth = readable(truth, whole.images, max(config.trainer.num_workers, 1), dataset.reader)
    results = [found for number in range(num_folds) for found in read_results(folder / f"fold_{number}" / RESULTS)]
    result = score_coco(truth, results, config.evaluation, kinds=config.kinds)
    return Scored(result.metrics, result, truth, results)


def _judge_by_checkpoint(config: LabelsConfig, path: Path) -> tuple[Path, Judged]:
    from maskrcnn_train.data.loading import evaluation_loader
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.evaluate import score_candidate
    from maskrcnn_train.prediction.predictor import load_checkpoint
    from maskrcnn_train.prediction.scoring import candidate_of, on_split
    from maskrcnn_train.reporting.terminal.progress import setup_logging

    trainer = config.trainer
    predictor = load_checkpoint(path, device=trainer.device, precision=trainer.precision).lowered(FAINT)
    predictor, split = on_split(predictor, config, num_workers=trainer.num_workers)
    candidate = candidate_of(predictor, evaluation_loader(predictor.config, split, predictor.classes))
    folder = open_run_folder(config.output_dir, "labels")
    scored = score_candidate(candidate, str(path), setup_logging(folder / LOG_FILE))
    return folder, Judged(split, predictor.classes, predictor.config, scored)


# ---------------------------------------------------------------- what they say about the labels


def _write(config: LabelsConfig, folder: Path, judged: Judged) -> LabelsResult:
    """The scores, the doubts, the corrected labels and the page."""
    from maskrcnn_train.evaluate import write_scored
    from maskrcnn_train.labelling.corrections import corrected
    from maskrcnn_train.labelling.files import doubt_entries, write_doubts
    from maskrcnn_train.labelling.suspicion import find_doubts
    from maskrcnn_train.reporting.pages.labels_page import write_labels_page

    scored, split = judged.scored, judged.split
    write_scored(scored, judged.config.evaluation, config.seed, folder)
    write_json(folder / RESULTS, scored.results)
    doubts = find_doubts(
        scored.ground_truth,
        scored.results,
        with_masks=judged.config.mask_head.enabled,
        max_detections=judged.config.evaluation.max_detections[-1],
        least=config.suspicion,
    )
    entries = doubt_entries(doubts, split.index, scored.ground_truth, scored.results)
    write_doubts(folder, entries, split.index.source)
    categories = categories_in(split.index, judged.classes, judged.config.data)
    write_json(folder / "corrected.json", corrected(split, doubts, scored.ground_truth, scored.results, categories))
    write_labels_page(folder, entries[: config.pictures], doubts, _scene(judged))
    _say(entries, folder)
    return LabelsResult(doubts, scored.metrics, folder)


def _scene(judged: Judged) -> Scene:
    from maskrcnn_train.data.pixels import build_reader
    from maskrcnn_train.reporting.pages.gallery import Scene

    truth, config = judged.scored.ground_truth, judged.config
    paths = {image["id"]: judged.split.images / image["file_name"] for image in truth["images"]}
    most, reader = config.evaluation.max_detections[-1], build_reader(config.data)
    return Scene(truth, judged.scored.results, paths, reader, config.kinds[-1], most)


def _say(entries: list[dict[str, Any]], folder: Path) -> None:
    """How many doubts of each kind there are, where they are, and how to go on."""
    from maskrcnn_train.labelling.suspicion import KINDS
    from maskrcnn_train.reporting.terminal.tables import table

    counts = Counter(each["kind"] for each in entries)
    rows = [(kind, counts[kind], meaning) for kind, meaning in KINDS.items()]
    logger.info("%s", table("doubtful labels", ["kind", "count", ""], rows))
    logger.info("to look through: %s\nto correct:      %s", folder / "labels.html", folder / "corrected.json")
    logger.info("train without them: data.exclude=%s", quoted(str(folder / "doubts.json")))


def run(config: LabelsConfig) -> float:
    with advising_on_memory("lower trainer.batch_size, evaluation.batch_size, trainer.num_workers or data.max_size"):
        metrics = find_doubtful_labels(config).metrics
    return metrics["segm/AP" if "segm/AP" in metrics else "bbox/AP"]


def main() -> None:
    run_command("labels", LabelsConfig, check_labels_rules, run, HELP)


if __name__ == "__main__":
    main()
