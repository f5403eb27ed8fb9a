"""`python -m maskrcnn_train.predict`: detections of a checkpoint on any images, as pictures and COCO results."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_train.cli import run_command
from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.sources import find_images
from maskrcnn_train.settings.command_rules import check_predict_rules
from maskrcnn_train.settings.command_schema import PredictConfig
from maskrcnn_train.settings.errors import UserError

if TYPE_CHECKING:
    from maskrcnn_train.prediction.files import PredictionFiles
    from maskrcnn_train.prediction.pictures import Picture, Prepared
    from maskrcnn_train.prediction.predictor import Predictor
    from maskrcnn_train.prediction.video import Video
    from maskrcnn_train.reporting.terminal.progress import Progress

HELP = """
Detect objects on images: pictures with coloured masks, boxes, class names and scores, and COCO results.

  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt images=FOLDER
  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt "images='*.jpg'" score_threshold=0.7
  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt images=list.txt save.masks=true save.csv=true
  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt images=FOLDER tile.size=1024
"""
AHEAD = 4  # batches that may be decoded before the model needs them, and images that may wait to be drawn
AHEAD_TILED = 1  # images, both: they are large
logger = logging.getLogger("maskrcnn_train")


@dataclass
class Prediction:
    """What a call wrote. pictures: their folder, or the video, which is there if any were wanted; results: COCO results
    of all images; failed: a line for each image that was skipped."""

    folder: Path
    pictures: Path
    results: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    images: int = 0


@dataclass
class Source:
    """An image that is asked for. picture: a path, or a frame of a video; name: of its files; image_id: in results."""

    picture: Picture
    name: str
    image_id: int


def predict_images(config: PredictConfig) -> Prediction:
    """Predict as configured. Bad images are named and skipped. Raises UserError for the person's mistakes."""
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.prediction.files import PredictionFiles
    from maskrcnn_train.prediction.predictor import load_checkpoint
    from maskrcnn_train.prediction.video import Video, VideoWriter, is_video
    from maskrcnn_train.reporting.terminal.progress import Progress, setup_logging

    video = Video(Path(config.images).expanduser()) if is_video(config.images) else None
    found = [] if video is not None else find_images(config.images)
    predictor = load_checkpoint(config.checkpoint, device=config.device, precision=config.precision, settings=config)
    if config.roi_head.score_threshold is None:
        predictor = predictor.lowered(config.score_threshold)
    unknown = [name for name in config.classes or [] if name not in predictor.classes.names]
    if unknown:
        raise UserError(f"classes: {unknown[0]} is no class of the model; it knows {predictor.classes}")
    if config.save.masks and not predictor.config.mask_head.enabled:
        raise UserError(f"save.masks=true: {config.checkpoint} gives boxes only; train with mask_head=conv4 for masks")
    folder = open_run_folder(config, "predict")
    console = setup_logging(folder)
    prediction = Prediction(folder, folder / ("pictures" if video is None else f"{video.path.stem}.mp4"))
    with ExitStack() as stack:
        sources, total, writer = _files(found), len(found) or None, None
        if video is not None:
            sources, total = _frames(video), video.num_frames
            if config.save.pictures:
                writer = stack.enter_context(VideoWriter(prediction.pictures, video.rate))
        files = PredictionFiles(folder, config, predictor.classes, writer)
        stack.callback(files.finish)  # of what was done before an error, too
        progress = stack.enter_context(Progress("predict", log_every=20, console=console))
        _predict_all(predictor, sources, total, config, files, prediction, progress)
    prediction.results = files.results
    return prediction


def _files(found: list[tuple[Path, int | None]]) -> Iterator[Source]:
    from maskrcnn_train.prediction.files import unique_stems

    names = unique_stems([path for path, _ in found])
    for number, ((path, image_id), name) in enumerate(zip(found, names, strict=True), start=1):
        yield Source(path, name, number if image_id is None else image_id)


def _frames(video: Video) -> Iterator[Source]:
    for number, frame in enumerate(video.frames(), start=1):
        yield Source(frame, f"{video.path.stem}_{number:06d}", number)


def _predict_all(
    predictor: Predictor,
    sources: Iterator[Source],
    total: int | None,
    config: PredictConfig,
    files: PredictionFiles,
    prediction: Prediction,
    progress: Progress,
) -> None:
    """Decode, detect and write at the same time: a thread on each side of the model."""
    from maskrcnn_train.prediction.predictor import detect_pictures

    began = time.monotonic()
    most_waiting = AHEAD if config.tile.size is None else AHEAD_TILED
    with _thread() as decoders, _thread() as writers:
        waiting: deque[Future[None]] = deque()
        for batch in _batches(predictor, sources, config, decoders, prediction):
            detections = detect_pictures(
                predictor,
                [image for _, image in batch],
                score_threshold=config.score_threshold,
                batch_size=config.batch_size,
            )
            for (source, image), found in zip(batch, detections, strict=True):
                if config.classes is not None:
                    found = found.keep_classes(config.classes)
                waiting.append(writers.submit(files.add, image, found, source.name, source.image_id))
            prediction.images += len(batch)
            while len(waiting) > most_waiting:
                waiting.popleft().result()
            rate = prediction.images / (time.monotonic() - began)
            progress.update(prediction.images + len(prediction.failed), total, {"images/s": rate})
        for future in waiting:
            future.result()


def _thread() -> ThreadPoolExecutor:
    """A thread beside the model's: torch uses one processor in it, or the two would wait for each other."""
    import torch

    return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))


def _batches(
    predictor: Predictor,
    sources: Iterator[Source],
    config: PredictConfig,
    decoders: ThreadPoolExecutor,
    prediction: Prediction,
) -> Iterator[list[tuple[Source, Prepared]]]:
    """Batches of readable images, decoded ahead of the model; with tiles a batch is of one image."""
    size, count = (config.batch_size, AHEAD * config.batch_size) if config.tile.size is None else (1, AHEAD_TILED)
    batch: list[tuple[Source, Prepared]] = []
    for source, future in _decoding(predictor, sources, config, count, decoders, prediction):
        try:
            batch.append((source, future.result()))
        except ImageError as error:
            _skip(error, prediction)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _decoding(
    predictor: Predictor,
    sources: Iterator[Source],
    config: PredictConfig,
    count: int,
    decoders: ThreadPoolExecutor,
    prediction: Prediction,
) -> Iterator[tuple[Source, Future[Prepared]]]:
    """Each image, while the `count` after it are being decoded."""
    from maskrcnn_train.prediction.pictures import prepare
    from maskrcnn_train.prediction.tiling import Tiles

    tiles = None if config.tile.size is None else Tiles(config.tile.size, config.tile.overlap)
    ahead: deque[tuple[Source, Future[Prepared]]] = deque()
    try:
        for source in sources:
            ahead.append((source, decoders.submit(prepare, predictor.config, source.picture, tiles)))
            if len(ahead) > count:
                yield ahead.popleft()
    except ImageError as error:  # a video that ends early; what came before it is done
        _skip(error, prediction)
    yield from ahead


def _skip(error: ImageError, prediction: Prediction) -> None:
    prediction.failed.append(str(error))
    logger.warning("skipped: %s", error)


def run(config: PredictConfig) -> None:
    prediction = predict_images(config)
    logger.info("%d images, %d detections", prediction.images, len(prediction.results))
    logger.info("results:  %s", prediction.folder / "predictions.json")
    if prediction.pictures.exists():
        logger.info("pictures: %s", prediction.pictures)
    if prediction.failed:
        logger.warning("%d images were skipped, first: %s", len(prediction.failed), prediction.failed[0])
        sys.exit(1)


def main() -> None:
    run_command("predict", PredictConfig, check_predict_rules, run, HELP)


if __name__ == "__main__":
    main()
