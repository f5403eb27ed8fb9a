"""`python -m maskrcnn_train.evaluate`: COCO mAP of a checkpoint, or of a COCO results file of any program."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_train.cli import run_command
from maskrcnn_train.command_config import EvaluateConfig
from maskrcnn_train.command_rules import check_evaluate_rules

if TYPE_CHECKING:
    from maskrcnn_train.evaluation.coco import CocoResult

HELP = """
COCO mAP of a checkpoint on any split, or of a COCO results file.

  python -m maskrcnn_train.evaluate checkpoint=RUN/checkpoints/best.pt split=test
  python -m maskrcnn_train.evaluate checkpoint=RUN/checkpoints/best.pt rpn.nms.post_test=300
  python -m maskrcnn_train.evaluate predictions=results.json annotations=instances_val2017.json
"""
logger = logging.getLogger("maskrcnn_train")


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Score as configured, write metrics.json, metrics per class and predictions.json; returns the metrics.

    Raises ValueError for the person's mistakes.
    """
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.evaluation.coco import explain_absent
    from maskrcnn_train.reporting.progress import setup_logging
    from maskrcnn_train.reporting.tables import class_table, metrics_table

    if config.predictions is not None:
        result, found = _score_file(config)
    else:
        result, found = _score_checkpoint(config)
    folder = open_run_folder(config, "evaluate")
    setup_logging(folder)
    (folder / "metrics.json").write_text(json.dumps(result.metrics, indent=2) + "\n")
    _write_classes(folder / "classes.csv", result)
    if config.checkpoint is not None:
        (folder / "predictions.json").write_text(json.dumps(found))
    logger.info("%s", class_table(result))
    for sentence in explain_absent(result):
        logger.info("%s", sentence)
    logger.info("%s\nwritten to %s", metrics_table(result.metrics), folder)
    return result.metrics


def _score_checkpoint(config: EvaluateConfig) -> tuple[CocoResult, list[dict[str, Any]]]:
    from maskrcnn_train.data.loading import evaluation_loader
    from maskrcnn_train.data.splitting import read_split
    from maskrcnn_train.engine.distributed import ALONE
    from maskrcnn_train.predictor import load_checkpoint
    from maskrcnn_train.validation import Validation

    predictor = load_checkpoint(
        Path(str(config.checkpoint)), device=config.device, number_format=config.precision, settings=config
    )
    trained = predictor.config
    if config.data is not None:  # another place, the network size of the training
        config.data.min_size, config.data.max_size = trained.data.min_size, trained.data.max_size
        trained.data = config.data
    trained.evaluation, trained.trainer.num_workers = config.evaluation, config.num_workers
    split, notes = read_split(
        trained.data, config.split, predictor.classes, with_masks=trained.mask_head.name != "none"
    )
    for note in notes:
        logger.warning("%s", note)
    validation = Validation(evaluation_loader(trained, split, predictor.classes), trained, ALONE)
    validation.evaluate(predictor.model)
    assert validation.result is not None
    return validation.result, validation.results


def _score_file(config: EvaluateConfig) -> tuple[CocoResult, list[dict[str, Any]]]:
    """A results file against a JSON; masks count where both have them."""
    from maskrcnn_train.data.results import read_ground_truth, read_results
    from maskrcnn_train.evaluation.coco import evaluate_coco

    truth = read_ground_truth(Path(str(config.annotations)))
    results = read_results(Path(str(config.predictions)))
    kinds = ["bbox"]
    if results and all(result.get("segmentation") for result in results):
        if all(annotation.get("segmentation") for annotation in truth["annotations"]):
            kinds.append("segm")
        else:
            logger.warning("%s has objects without masks: boxes only are scored", config.annotations)
    result = evaluate_coco(
        truth,
        results,
        backend=config.evaluation.backend,
        max_detections=config.evaluation.max_detections,
        iou_thresholds=config.evaluation.iou_thresholds,
        size_limits=config.evaluation.size_limits,
        kinds=kinds,
        class_names={category["id"]: category["name"] for category in truth["categories"]},
    )
    return result, results


def _write_classes(path: Path, result: CocoResult) -> None:
    """Objects and AP of each class, as a table for other programs."""
    kinds = list(result.precision)
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["category_id", "class", "objects", *(f"{kind}/AP" for kind in kinds)])
        for class_id, name in result.class_names.items():
            scores = [result.metrics[f"{kind}/AP/{name}"] for kind in kinds]
            rows.writerow([class_id, name, result.support[class_id], *scores])


def run(config: EvaluateConfig) -> float:
    metrics = evaluate(config)
    return metrics.get("segm/AP", metrics["bbox/AP"])


def main() -> None:
    run_command("evaluate", EvaluateConfig, check_evaluate_rules, run, HELP)


if __name__ == "__main__":
    main()
