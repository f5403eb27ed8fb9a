"""A trained model ready for use: the network, its classes, and the configuration that it was built from."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from maskrcnn_train.data.packing import pad_images
from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.engine.precision import autocast, resolve_device, to_device
from maskrcnn_train.model.mask_rcnn import MaskRCNN, build_model
from maskrcnn_train.model.outputs import DetectionRules
from maskrcnn_train.model.tta import TestTimeAugmentation
from maskrcnn_train.prediction.pictures import Picture, Prepared, prepare, resize
from maskrcnn_train.prediction.tiling import merge_tiles
from maskrcnn_train.settings.command_schema import TestSettings
from maskrcnn_train.settings.compose import config_from_plain
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.rules import check_values
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import ImageBatch, ImageVersions
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.detections import Detections, to_host
from maskrcnn_train.structures.pasting import MaskPasting
from maskrcnn_train.structures.tiles import Tiles

logger = logging.getLogger("maskrcnn_train")
Section = TypeVar("Section")


@dataclass(frozen=True)
class Predictor:
    """A model, and what turns its outputs into named objects of an image.

    model: in eval mode on its device. classes: label -> category id and name. config: what the model was built from.
    rules: thresholds to use instead of the model's own. augmentation: looks at several versions of each image.
    """

    model: MaskRCNN
    classes: ClassMap
    config: TrainConfig
    rules: DetectionRules | None = None
    augmentation: TestTimeAugmentation | None = None

    @classmethod
    def from_model(cls, model: MaskRCNN, config: TrainConfig, class_names: list[str]) -> Predictor:
        """A predictor around a model that you built yourself; class_names: label 1 first."""
        if len(class_names) + 1 != model.num_classes:
            raise UserError(
                f"the model has {model.num_classes - 1} classes without the background, not {len(class_names)}"
            )
        classes = ClassMap(list(class_names), list(range(1, len(class_names) + 1)))
        return cls(model.eval(), classes, config)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the model computes in `trainer.precision`."""
        return autocast(self.config.trainer.precision, self.device)

    @property
    def pasting(self) -> MaskPasting:
        return MaskPasting(self.config.mask_head.threshold, self.config.numerics.mask_paste)

    @property
    def tiles(self) -> Tiles | None:
        """Those of its training; None for a model of whole images."""
        tile = self.config.data.tile
        return None if tile.size is None else Tiles(tile.size, tile.overlap)

    def lowered(self, score_threshold: float) -> Predictor:
        """A predictor whose model also gives detections scored between `score_threshold` and its own threshold."""
        rules = self.rules or self.model.roi_heads.rules
        return replace(self, rules=replace(rules, score_threshold=min(rules.score_threshold, score_threshold)))

    @torch.inference_mode()
    def detect(self, images: ImageBatch | ImageVersions) -> list[Detections]:
        """One pass of the model: detections of each image in image pixels, on the CPU."""
        model: Any = self.augmentation or self.model
        with self.autocast():
            found = model.detect(images.to(self.device, non_blocking=True), rules=self.rules)
        return [replace(each, classes=self.classes, pasting=self.pasting) for each in to_host(found)]


def load_checkpoint(
    path: Path | str, *, device: str = "auto", precision: str | None = None, settings: TestSettings | None = None
) -> Predictor:
    """The model of a checkpoint, with the moving average of its weights if there is one.

    precision: a value of `trainer.precision`; None for that of the training. settings: budgets and thresholds that
    replace those in the checkpoint. Raises UserError for a file that is missing, damaged or no checkpoint, for a
    device that is not there, and for another precision.
    """
    content = read_checkpoint(Path(path))
    config = config_from_plain(content["config"])
    if settings is not None:
        config = replace(
            config,
            rpn=replace(config.rpn, nms=with_given(config.rpn.nms, settings.rpn.nms)),
            roi_head=with_given(config.roi_head, settings.roi_head),
            mask_head=with_given(config.mask_head, settings.mask_head),
        )
        if settings.mask_head.threshold is not None and not config.mask_head.enabled:
            logger.warning("mask_head.threshold has no effect: the model of %s finds boxes only", path)
    if precision is not None:
        config = replace(config, trainer=replace(config.trainer, precision=precision))
        check_values(config.trainer, "trainer.")
    classes = ClassMap.from_plain(content["classes"])
    model = build_model(config, classes.num_classes, objects=classes.objects)
    model.load_state_dict(content.get("ema") or content["model"])
    model = to_device(model, resolve_device(device, key="device"), channels_last=config.trainer.channels_last)
    return Predictor(model.eval(), classes, config)


def with_given(section: Section, given: object) -> Section:
    """A section of a configuration with every value of `given` that is not None."""
    return replace(section, **{key: value for key, value in vars(given).items() if value is not None})  # type: ignore[type-var]


# ---------------------------------------------------------------- pictures


def predict(
    predictor: Predictor,
    images: Iterable[Picture],
    *,
    score_threshold: float = 0.5,
    batch_size: int = 1,
    tiles: Tiles | None = None,
) -> list[Detections]:
    """What the model finds on each image, in their order.

    images: paths; PIL images, read as their files are; uint8 arrays [H, W, 3] R G B; uint8 [3, H, W], or float
    [3, H, W] in 0..1, tensors; of other `data.channels` and `data.bits` likewise. score_threshold: below
    `roi_head.score_threshold` it replaces that. tiles: detect in tiles, for large images with small objects; None: in
    those of the training, if it had any.
    Raises ImageError (a UserError) for a file that cannot be read.

    >>> detections = predict(load_checkpoint("best.pt"), ["a.jpg"])  # doctest: +SKIP
    """
    if isinstance(images, str | Path | Image.Image) or getattr(images, "ndim", 1) in (2, 3):
        raise UserError("images is one image; give a list: predict(predictor, [image])")
    if batch_size < 1 or not 0 <= score_threshold <= 1:
        raise UserError(
            f"batch_size={batch_size}, score_threshold={score_threshold}: give 1 or more images, and a score in 0..1"
        )
    predictor, tiles = predictor.lowered(score_threshold), tiles or predictor.tiles
    found, remaining = list[Detections](), iter(images)
    step = 1 if tiles is not None else batch_size  # with tiles a batch is of one image
    while batch := list(itertools.islice(remaining, step)):
        prepared = [prepare(predictor.config, image, tiles) for image in batch]
        found += detect_pictures(predictor, prepared, score_threshold, batch_size)
    return found


def detect_pictures(
    predictor: Predictor, images: Sequence[Prepared], score_threshold: float, batch_size: int
) -> list[Detections]:
    """Detections of a batch without tiles, in one pass; or of a single image, in passes of `batch_size` tiles."""
    image = images[0]
    if not image.windows:
        return detect_batch(predictor, images, score_threshold=score_threshold)
    found: list[Detections] = []
    for start in range(0, len(image.windows), batch_size):
        windows = image.windows[start : start + batch_size]
        batch = [resize(predictor.config, image.original.crop(window)) for window in windows]
        found += detect_batch(predictor, batch, score_threshold=score_threshold)
    return [replace(merge_tiles(image.windows, found, image.size), source=image.source)]


def detect_batch(predictor: Predictor, images: Sequence[Prepared], *, score_threshold: float) -> list[Detections]:
    """One pass of the model; detections scored at least `score_threshold`, on the CPU."""
    batch = pad_images([image.pixels for image in images if image.pixels is not None], [image.size for image in images])
    found = predictor.detect(batch)
    return [
        replace(each[each.scores >= score_threshold], source=image.source)
        for each, image in zip(found, images, strict=True)
    ]
