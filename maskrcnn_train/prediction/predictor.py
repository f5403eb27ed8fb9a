"""A trained model ready for use: the network, its classes, and the configuration that it was built from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskrcnn_train.data.images import MAX_PIXELS, MAX_TILED_PIXELS, decode, to_rgb
from maskrcnn_train.data.packing import pad_images
from maskrcnn_train.data.splits.classes import ClassMap
from maskrcnn_train.data.transforms import build_transform
from maskrcnn_train.engine import precision
from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.model.mask_rcnn import MaskRCNN, build_model
from maskrcnn_train.prediction.tiling import Tiles, Window, merge_tiles
from maskrcnn_train.settings.command_schema import TestSettings
from maskrcnn_train.settings.compose import config_from_plain
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.detections import Detections

logger = logging.getLogger("maskrcnn_train")


@dataclass
class Predictor:
    """model: in eval mode on its device. classes: label -> category id and name. config: what it was built from."""

    model: MaskRCNN
    classes: ClassMap
    config: TrainConfig

    @classmethod
    def from_model(cls, model: MaskRCNN, config: TrainConfig, class_names: list[str]) -> Predictor:
        """A predictor around a model of one's own; class_names: label 1 first."""
        if len(class_names) + 1 != model.num_classes:
            raise UserError(
                f"the model has {model.num_classes - 1} classes without the background, not {len(class_names)}"
            )
        classes = ClassMap(list(class_names), list(range(1, len(class_names) + 1)))
        return cls(model.eval(), classes, config)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def load_checkpoint(
    path: Path | str, *, device: str = "auto", number_format: str | None = None, settings: TestSettings | None = None
) -> Predictor:
    """The model of a checkpoint of ours, its moving average if it has one.

    number_format: `trainer.precision` to compute in; None: as trained. settings: budgets and thresholds to use instead
    of those in the checkpoint. Raises UserError for a missing, damaged or foreign file, or a device that is not there.
    """
    content = read_checkpoint(Path(path))
    config = config_from_plain(content["config"])
    if settings is not None:
        apply_test_settings(config, settings)
        if settings.mask_head.threshold is not None and config.mask_head.name == "none":
            logger.warning("mask_head.threshold has no effect: the model of %s finds boxes only", path)
    if number_format is not None:
        config.trainer = replace(config.trainer, precision=number_format)
    classes = ClassMap.from_plain(content["classes"])
    model = build_model(config, classes.num_classes)
    model.load_state_dict(content.get("ema") or content["model"])
    place = precision.resolve_device(device, key="device")
    model = precision.to_device(model, place, channels_last=config.trainer.channels_last)
    return Predictor(model.eval(), classes, config)


def apply_test_settings(config: TrainConfig, settings: TestSettings) -> None:
    """Put every setting that is not None into the configuration."""
    pairs = (
        (settings.rpn.nms, config.rpn.nms),
        (settings.roi_head, config.roi_head),
        (settings.mask_head, config.mask_head),
    )
    for section, target in pairs:
        for key, value in vars(section).items():
            if value is not None:
                setattr(target, key, value)


# ---------------------------------------------------------------- detecting

Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor


def predict(
    predictor: Predictor,
    images: Sequence[Picture],
    *,
    score_threshold: float = 0.5,
    batch_size: int = 1,
    tiles: Tiles | None = None,
) -> list[Detections]:
    """What the model finds on each image, in their order.

    images: paths; PIL images, read as their files are; uint8 arrays [H, W, 3] R G B; uint8 [3, H, W], or float
    [3, H, W] in 0..1, tensors. score_threshold: below `roi_head.score_threshold` it replaces that. tiles: detect in
    tiles, for large images with small objects.
    Raises ImageError (a UserError) for a file that cannot be read.

    >>> detections = predict(load_checkpoint("best.pt"), ["a.jpg"])  # doctest: +SKIP
    """
    if isinstance(images, str | Path | Image.Image):
        raise UserError("images is one image; give a list: predict(predictor, [image])")
    found = []
    step = 1 if tiles is not None else batch_size  # with tiles a batch is of one image
    with lowered_threshold(predictor, score_threshold):
        for start in range(0, len(images), step):
            prepared = [prepare(predictor, image, tiles) for image in images[start : start + step]]
            found += detect(predictor, prepared, score_threshold=score_threshold, batch_size=batch_size)
    return found


@contextmanager
def lowered_threshold(predictor: Predictor, score_threshold: float) -> Iterator[None]:
    """The model's own threshold is no higher than `score_threshold` meanwhile, or it would drop what is asked for."""
    heads = predictor.model.roi_heads
    rules = heads.rules
    heads.rules = replace(rules, score_threshold=min(rules.score_threshold, score_threshold))
    try:
        yield
    finally:
        heads.rules = rules


@dataclass
class Prepared:
    """An image ready for the model. original: R G B, upright; source: its file. pixels: uint8 [3, h, w], resized;
    None where it is detected in `windows`, each of which is cut and resized when its turn comes."""

    original: Image.Image
    source: str | None
    pixels: Tensor | None
    windows: list[Window]

    @property
    def size(self) -> tuple[int, int]:
        return self.original.height, self.original.width


def prepare(predictor: Predictor, picture: Picture, tiles: Tiles | None = None) -> Prepared:
    """Decode one image and, unless it is to be cut into tiles, resize it as the validation of its training did.

    Raises ImageError.
    """
    source = str(picture) if isinstance(picture, str | Path) else None
    image = _open(picture, MAX_PIXELS if tiles is None else MAX_TILED_PIXELS)
    windows = [] if tiles is None else tiles.windows((image.height, image.width))
    if len(windows) > 1:
        return Prepared(image, source, None, windows)
    return Prepared(image, source, _resized(predictor, image), [])


def _open(picture: Picture, max_pixels: int) -> Image.Image:
    if isinstance(picture, str | Path):
        return decode(Path(picture), max_pixels=max_pixels)
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    if isinstance(picture, Tensor):
        picture = _to_array(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise UserError(f"an image array must be uint8 [height, width, 3], not {picture.dtype} {picture.shape}")
    return Image.fromarray(np.ascontiguousarray(picture))


def _to_array(picture: Tensor) -> NDArray[np.uint8]:
    floating = picture.is_floating_point()
    if picture.ndim != 3 or picture.shape[0] != 3 or not (floating or picture.dtype == torch.uint8):
        kind = f"{picture.dtype} {tuple(picture.shape)}"
        raise UserError(f"an image tensor must be uint8, or float in 0..1, [3, height, width], not {kind}")
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8) if floating else picture
    return pixels.permute(1, 2, 0).cpu().numpy()


def _resized(predictor: Predictor, image: Image.Image) -> Tensor:
    """Network pixels of an image, uint8 [3, h, w]."""
    config = predictor.config
    transform = build_transform(config.data, None, config.numerics.pixel_mean)
    geometry = transform.geometry((image.height, image.width), None)
    return torch.from_numpy(geometry.window(geometry.resize(image), transform.fill)).permute(2, 0, 1)


def detect(
    predictor: Predictor, images: Sequence[Prepared], *, score_threshold: float, batch_size: int
) -> list[Detections]:
    """Detections of each image: of a batch without tiles in one pass, of tiles in passes of `batch_size` tiles."""
    if not any(image.windows for image in images):
        return detect_batch(predictor, images, score_threshold=score_threshold)
    return [
        _detect_tiles(predictor, image, score_threshold, batch_size)
        if image.windows
        else detect_batch(predictor, [image], score_threshold=score_threshold)[0]
        for image in images
    ]


def _detect_tiles(predictor: Predictor, image: Prepared, score_threshold: float, batch_size: int) -> Detections:
    found: list[Detections] = []
    for start in range(0, len(image.windows), batch_size):
        parts = [image.original.crop(window) for window in image.windows[start : start + batch_size]]
        batch = [Prepared(part, None, _resized(predictor, part), []) for part in parts]
        found += detect_batch(predictor, batch, score_threshold=score_threshold)
    return replace(merge_tiles(image.windows, found, image.size), source=image.source)


def detect_batch(predictor: Predictor, images: Sequence[Prepared], *, score_threshold: float) -> list[Detections]:
    """One pass of the model; detections scored at least `score_threshold`, on the CPU."""
    config, device = predictor.config, predictor.device
    batch = pad_images([image.pixels for image in images if image.pixels is not None], [image.size for image in images])
    number_format = precision.resolve_precision(config.trainer.precision, device)
    with torch.inference_mode(), precision.autocast(number_format, device):
        outputs = predictor.model(batch.to(device))
    found = []
    for output, image in zip(outputs, images, strict=True):
        labels = output["labels"].cpu()
        masks = output.get("masks")
        detections = Detections(
            boxes=output["boxes"].float().cpu(),
            scores=output["scores"].float().cpu(),
            labels=labels,
            class_names=[predictor.classes.name_of(label) for label in labels.tolist()],
            category_ids=[predictor.classes.id_of(label) for label in labels.tolist()],
            size=image.size,
            probabilities=None if masks is None else masks.float().cpu(),
            mask_threshold=config.mask_head.threshold,
            mask_rule=config.numerics.mask_paste,
            source=image.source,
        )
        found.append(detections.keep(detections.scores >= score_threshold))
    return found
