"""`python -m maskrcnn_train.predict`: detections of a checkpoint on any images, as pictures and COCO results."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.data.sources import FoundImage, find_images
from maskrcnn_train.prediction.memory import BUDGETS, advising_on_memory
from maskrcnn_train.settings.command_rules import check_predict_rules
from maskrcnn_train.settings.command_schema import PredictConfig
from maskrcnn_train.settings.errors import UserError

if TYPE_CHECKING:
    from maskrcnn_train.prediction.files import PredictionFiles
    from maskrcnn_train.prediction.pipeline import Source
    from maskrcnn_train.prediction.predictor import Predictor
    from maskrcnn_train.prediction.video import Video

HELP = """
Detect objects on images: pictures with coloured masks, boxes, class names and scores, and COCO results.

  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt images=FOLDER
  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt "images='*.jpg'" score_threshold=0.7
  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt images=list.txt save.masks=true save.csv=true
  python -m maskrcnn_train.predict checkpoint=RUN/checkpoints/best.pt images=FOLDER tile.size=1024
"""
logger = logging.getLogger("maskrcnn_train")


def predict_images(config: PredictConfig) -> PredictionFiles:
    """Predict as configured. Bad images are named and skipped. Raises UserError for the person's mistakes."""
    from maskrcnn_train.data.pixels import build_reader
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.prediction.files import PredictionFiles
    from maskrcnn_train.prediction.pipeline import Pipeline
    from maskrcnn_train.prediction.video import Video, VideoWriter, is_video
    from maskrcnn_train.reporting.terminal.progress import Progress, setup_logging

    video = Video(Path(config.images).expanduser()) if is_video(config.images) else None
    if video is not None and config.save.formats:
        raise UserError("save.formats writes labels of image files; a video has none: save its frames as images first")
    found = [] if video is not None else find_images(config.images)
    predictor = _predictor(config)
    if video is not None and (channels := predictor.config.data.channels) != 3:
        raise UserError(f"images={config.images} is a video, in R G B; the model takes images of {channels} channels")
    folder = open_run_folder(config.output_dir, "predict")
    console = setup_logging(folder / "predict.log")
    pictures = folder / ("pictures" if video is None else f"{video.path.stem}.mp4")
    total = len(found) if video is None else video.num_frames
    with ExitStack() as stack:
        files = PredictionFiles(folder, config, predictor.classes, build_reader(predictor.config.data), pictures)
        if video is not None and config.save.pictures:
            files.video = stack.enter_context(closing(VideoWriter(pictures, video.rate)))
        stack.callback(files.finish)  # of what was done before an error, too
        progress = stack.enter_context(Progress("predict", log_every=20, console=console))
        pipeline, began = Pipeline(predictor, config, files), time.monotonic()

        def show() -> None:
            rate = pipeline.images / (time.monotonic() - began)
            progress.update(pipeline.images + len(files.failed), total, {"images/s": rate})

        pipeline.run(_sources(found, video), show)
    return files


def _predictor(config: PredictConfig) -> Predictor:
    from maskrcnn_train.prediction.predictor import load_checkpoint

    predictor = load_checkpoint(config.checkpoint, device=config.device, precision=config.precision, settings=config)
    unknown = [name for name in config.classes or [] if name not in predictor.classes.names]
    if unknown:
        raise UserError(f"classes: {unknown[0]} is no class of the model; it knows {predictor.classes}")
    if config.save.masks and not predictor.config.mask_head.enabled:
        raise UserError(f"save.masks=true: {config.checkpoint} gives boxes only; train with mask_head=conv4 for masks")
    return predictor.lowered(config.score_threshold) if config.roi_head.score_threshold is None else predictor


def _sources(found: list[FoundImage], video: Video | None) -> Iterator[Source]:
    """The frames of a video, or the files that were found, with names of their own and ids."""
    from maskrcnn_train.prediction.files import unique_stems
    from maskrcnn_train.prediction.pipeline import Source

    if video is not None:
        for number, frame in enumerate(video.frames(), start=1):
            yield Source(frame, f"{video.path.stem}_{number:06d}", number)
    names = unique_stems([each.path for each in found])
    for number, (image, name) in enumerate(zip(found, names, strict=True), start=1):
        yield Source(image.path, name, number if image.image_id is None else image.image_id, image.size)


def run(config: PredictConfig) -> None:
    with advising_on_memory(f"lower batch_size, tile.size, {BUDGETS}, or use device=cpu"):
        files = predict_images(config)
    logger.info("%d images, %d detections", len(files.images), len(files.results))
    logger.info("results:  %s", files.folder / "predictions.json")
    if files.pictures.exists():
        logger.info("pictures: %s", files.pictures)
    if files.failed:
        logger.warning("%d images were skipped, first: %s", len(files.failed), files.failed[0])
        sys.exit(1)


def main() -> None:
    run_command("predict", PredictConfig, check_predict_rules, run, HELP)


if __name__ == "__main__":
    main()
