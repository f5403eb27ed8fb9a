"""`python -m maskrcnn_train.predict`: detections of a checkpoint on any images, as pictures and COCO results."""

from __future__ import annotations

import csv
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_train.cli import run_command
from maskrcnn_train.command_config import PredictConfig
from maskrcnn_train.command_rules import check_predict_rules
from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.sources import find_images

if TYPE_CHECKING:
    from maskrcnn_train.detections import Detections
    from maskrcnn_train.predictor import Predictor, Prepared

HELP = """
Detect objects on images: pictures with coloured masks, boxes, class names and scores, and COCO results.

  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt images=FOLDER
  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt "images='*.jpg'" score_threshold=0.7
  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt images=list.txt save.masks=true save.csv=true
"""
AHEAD = 4  # batches that may be decoded before the model needs them, or wait to be drawn
logger = logging.getLogger("maskrcnn_train")


@dataclass
class Prediction:
    """What a call wrote. results: COCO results of all images; failed: a line for each image that was skipped."""

    folder: Path
    results: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    images: int = 0


def predict_images(config: PredictConfig) -> Prediction:
    """Predict as configured. Bad images are named and skipped. Raises ValueError for the person's mistakes."""
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.predictor import detect_batch, load_checkpoint
    from maskrcnn_train.reporting.progress import Progress, setup_logging

    found = find_images(config.images)
    predictor = load_checkpoint(
        config.checkpoint, device=config.device, number_format=config.precision, settings=config
    )
    unknown = [name for name in config.classes or [] if name not in predictor.classes.names]
    if unknown:
        raise ValueError(f"classes: {unknown[0]} is no class of the model; it knows {predictor.classes}")
    folder = open_run_folder(config, "predict")
    console = setup_logging(folder)
    prediction = Prediction(folder)
    names = _distinct_names([path for path, _ in found])
    began = time.monotonic()
    with (
        ThreadPoolExecutor(1) as decoders,
        ThreadPoolExecutor(1) as writers,
        Progress("predict", log_every=20, console=console) as progress,
    ):
        waiting: deque[Future[list[dict[str, Any]]]] = deque()
        for numbers, images in _batches(
            predictor, [path for path, _ in found], config.batch_size, decoders, prediction
        ):
            for number, image, each in zip(
                numbers, images, detect_batch(predictor, images, score_threshold=config.score_threshold), strict=True
            ):
                image_id = found[number][1]
                write = (config, folder, names[number], number + 1 if image_id is None else image_id, predictor)
                waiting.append(writers.submit(_write, image, each, *write))
            prediction.images += len(images)
            while len(waiting) > AHEAD:
                prediction.results += waiting.popleft().result()
            rate = prediction.images / (time.monotonic() - began)
            progress.update(numbers[-1] + 1, len(found), {"images/s": rate})
        for future in waiting:
            prediction.results += future.result()
    (folder / "predictions.json").write_text(json.dumps(prediction.results))
    if config.save.csv:
        _write_csv(folder / "detections.csv", prediction.results, found, predictor)
    return prediction


def _batches(
    predictor: Predictor, paths: list[Path], size: int, decoders: ThreadPoolExecutor, prediction: Prediction
) -> Iterator[tuple[list[int], list[Prepared]]]:
    """Batches of readable images with their places in `paths`, decoded ahead of the model."""
    batch: list[tuple[int, Prepared]] = []
    for place, future in _decoding(predictor, paths, AHEAD * size, decoders):
        try:
            batch.append((place, future.result()))
        except ImageError as error:
            prediction.failed.append(str(error))
            logger.warning("skipped: %s", error)
        if len(batch) == size:
            yield [place for place, _ in batch], [image for _, image in batch]
            batch = []
    if batch:
        yield [place for place, _ in batch], [image for _, image in batch]


def _decoding(
    predictor: Predictor, paths: list[Path], count: int, decoders: ThreadPoolExecutor
) -> Iterator[tuple[int, Future[Prepared]]]:
    """Each image with its place, while the `count` after it are being decoded."""
    from maskrcnn_train.predictor import prepare

    ahead: deque[tuple[int, Future[Prepared]]] = deque()
    for place, path in enumerate(paths):
        ahead.append((place, decoders.submit(prepare, predictor, path)))
        if len(ahead) > count:
            yield ahead.popleft()
    yield from ahead


def _write(
    image: Prepared,
    found: Detections,
    config: PredictConfig,
    folder: Path,
    name: str,
    image_id: int,
    predictor: Predictor,
) -> list[dict[str, Any]]:
    """Write what was asked for of one image; returns its COCO results."""
    import numpy as np
    import torch
    from PIL import Image

    from maskrcnn_train.reporting.drawing import draw_objects

    if config.classes is not None:
        found = found.keep(torch.tensor([each in config.classes for each in found.class_names], dtype=torch.bool))
    crops = None if found.probabilities is None else found.crops()
    if config.save.pictures:
        picture = draw_objects(
            np.asarray(image.original),
            boxes=found.boxes.numpy(),
            labels=found.labels.tolist(),
            names=predictor.classes.names,
            scores=found.scores.tolist(),
            masks=crops,
            opacity=config.draw.mask_opacity,
            thickness=config.draw.box_thickness,
            text_size=config.draw.text_size,
            color_by=config.draw.color_by,
        )
        _save(picture, folder / "pictures" / f"{name}.jpg", quality=90)
    if config.save.masks and crops is not None:
        for number, (x0, y0, bitmap) in enumerate(crops, start=1):
            full = np.zeros(found.size, np.uint8)
            full[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]] = bitmap * 255
            _save(Image.fromarray(full), folder / "masks" / f"{name}_{number}.png")
    return found.to_coco(image_id)


def _save(picture: Any, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def _distinct_names(paths: list[Path]) -> list[str]:
    """The stem of each file, with a number where several files have it."""
    taken: dict[str, int] = {}
    names = []
    for path in paths:
        taken[path.stem] = taken.get(path.stem, 0) + 1
        names.append(path.stem if taken[path.stem] == 1 else f"{path.stem}_{taken[path.stem]}")
    return names


def _write_csv(
    path: Path, results: list[dict[str, Any]], found: list[tuple[Path, int | None]], predictor: Predictor
) -> None:
    files = {number if image_id is None else image_id: path for number, (path, image_id) in enumerate(found, start=1)}
    names = dict(zip(predictor.classes.ids, predictor.classes.names, strict=True))
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class", "score", "x", "y", "width", "height"])
        for result in results:
            rows.writerow([files[result["image_id"]], names[result["category_id"]], result["score"], *result["bbox"]])


def run(config: PredictConfig) -> None:
    prediction = predict_images(config)
    logger.info("%d images, %d detections", prediction.images, len(prediction.results))
    logger.info("results:  %s\npictures: %s", prediction.folder / "predictions.json", prediction.folder / "pictures")
    if prediction.failed:
        logger.warning("%d images were skipped, first: %s", len(prediction.failed), prediction.failed[0])
        sys.exit(1)


def main() -> None:
    run_command("predict", PredictConfig, check_predict_rules, run, HELP)


if __name__ == "__main__":
    main()
