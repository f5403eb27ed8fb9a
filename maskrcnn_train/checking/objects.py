"""The objects of a split in network pixels, and their sizes and numbers against the limits of the settings."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskrcnn_train.checking.findings import Finding, percent
from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.data.tile_layout import lay_out
from maskrcnn_train.data.transforms import MIN_SIDE
from maskrcnn_train.settings.rules import least_side
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.arrays import Flags, Floats, Ints
from maskrcnn_train.structures.corners import xywh_to_xyxy

VANISHING_SHARE = 0.01  # of the objects; above it a larger network size is worth its cost
SMALL = 12.0  # network pixels, square root of the area: hardly more than one cell of the finest feature map
SMALL_SHARE = 0.2
MASK_PIXEL = 8.0  # network pixels that one pixel of the predicted mask may cover
COARSE_SHARE = 0.25
UPSCALED = 1.5
CROPS = 9  # shapes of random crops that are looked at


@dataclass
class NetworkObjects:
    """N objects of the images of a split, crowd regions aside; of tiles, as often as a tile shows them.

    rows: int64 [N], their annotations in the index. boxes: float64 [N, 4] x1 y1 x2 y2, network pixels. sizes: int64
    [N, 2], (height, width) of each object's image, network pixels. Of the images, or tiles: per_image, int64 [images],
    their objects; scales, float64 [images], network pixels for one image pixel; sources, int64 [images, 2], (height,
    width) in image pixels; files, int64 [images], their images in the index.
    """

    index: AnnotationIndex
    rows: Ints
    boxes: Floats
    sizes: Ints
    per_image: Ints
    scales: Floats
    sources: Ints
    files: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def items(self, which: Flags) -> list[int | str]:
        """What a person finds some objects by, each once."""
        return self.index.items(dict.fromkeys(self.rows[which].tolist()))

    @property
    def lengths(self) -> Floats:
        """Width and height of each box: float64 [N, 2]."""
        return np.asarray(self.boxes[:, 2:] - self.boxes[:, :2])

    @property
    def sides(self) -> Floats:
        """Square roots of the box areas."""
        return np.asarray(np.sqrt(self.lengths.prod(axis=1)))


def training_min_size(config: TrainConfig) -> int:
    """The shorter side of training images; of several to choose from, the middle one."""
    sizes = sorted(config.augmentation.min_sizes or [config.data.min_size])
    return sizes[len(sizes) // 2]


def at_min_size(config: TrainConfig, min_size: int) -> dict[str, Any]:
    """The overrides with which `training_min_size` is `min_size`, and the shorter side of all other images too."""
    override: dict[str, Any] = {"data.min_size": min_size}
    if sizes := config.augmentation.min_sizes:
        factor = min_size / training_min_size(config)
        override["augmentation.min_sizes"] = [max(16, round(factor * size)) for size in sizes]
    return override


def size_key(config: TrainConfig) -> str:
    """The key that decides how large training images are."""
    return "augmentation.min_sizes" if config.augmentation.min_sizes else "data.min_size"


def network_objects(split: Split, config: TrainConfig) -> NetworkObjects:
    """The objects of a split at the network size, before random scaling and cropping."""
    layout, index = lay_out(split, config.data.tile), split.index
    min_size = training_min_size(config) if split.name == "train" else config.data.min_size
    resized, scales = resized_sizes(layout.sizes, min_size, config.data.max_size)
    low, high = (np.tile(corner, 2) for corner in np.split(layout.windows[layout.tiles], 2, axis=1))
    boxes = np.clip(xywh_to_xyxy(np.asarray(index.boxes)[layout.objects]), low, high) - low
    return NetworkObjects(
        index=index,
        rows=layout.objects,
        boxes=boxes * np.tile((resized / layout.sizes)[layout.tiles, ::-1], 2),
        sizes=resized[layout.tiles],
        per_image=layout.num_objects,
        scales=scales,
        sources=layout.sizes,
        files=layout.rows,
    )


def resized_sizes(sizes: Ints, min_size: int, max_size: int) -> tuple[Ints, Floats]:
    """`data.transforms.resized_size` of many images: int64 [M, 2] height, width, and the scale of each."""
    scales = np.minimum(min_size / sizes.min(axis=1), max_size / sizes.max(axis=1))
    return np.maximum(1, (sizes * scales[:, None] + 1e-6).astype(np.int64)), scales


def largest_size(split: Split, config: TrainConfig) -> tuple[int, int]:
    """(height, width) of the largest padded batch of a training, network pixels.

    A batch is as high as its highest image and as wide as its widest. With `data.group_by_shape` too wide and tall
    images meet: in the batch of those that are left at the end of each group.
    """
    sizes, augmentation = np.unique(lay_out(split, config.data.tile).sizes, axis=0), config.augmentation
    crops = augmentation.min_crop < 1 and augmentation.scale_jitter is None
    shares = np.linspace(augmentation.min_crop, 1, CROPS) if crops else [1.0]
    parts = np.concatenate([sizes * factors for share in shares for factors in ((share, 1.0), (1.0, share))])
    min_size = max(augmentation.min_sizes or [config.data.min_size])
    padded = -(-resized_sizes(np.maximum(1, np.round(parts)), min_size, config.data.max_size)[0] // 32) * 32
    largest = padded.max(axis=0) if config.trainer.batch_size > 1 else padded[int(padded.prod(axis=1).argmax())]
    height, width = largest.tolist()
    return height, width


def check_objects_per_image(split: Split, objects: NetworkObjects, config: TrainConfig) -> Iterator[Finding]:
    """Images, or tiles, with more objects than can be found or sampled, and images with more than are scored."""
    most = int(objects.per_image.max(initial=0))
    enough = -(-most // 50) * 50
    of_files = np.bincount(split.index.image_rows[split.is_object], minlength=split.index.num_images)[objects.files]

    def crowded(limit: int, scored: float = math.inf) -> list[str]:
        rows = objects.files[(objects.per_image > limit) | (of_files > scored)]
        return [split.index.file_name(row) for row in dict.fromkeys(rows.tolist())]

    kept, scored = config.roi_head.detections_per_image, config.evaluation.max_detections
    on_a_file = int(of_files.max(initial=0))
    if most > kept or on_a_file > scored[-1]:
        override: dict[str, Any] = {"roi_head.detections_per_image": max(kept, enough)}
        if scored[-1] < (all_scored := -(-on_a_file // 50) * 50):
            override["evaluation.max_detections"] = [*scored[:-1], all_scored]
        what = f"images with more objects than detections are kept ({kept}) or scored ({scored[-1]}); up to {on_a_file}"
        yield Finding("warning", "detections-too-few", what, split.name, "image", crowded(kept, scored[-1]), override)
    if most > (limit := config.rpn.nms.post_test):
        what = f"images with more objects than proposals are kept in evaluation ({limit})"
        override = {"rpn.nms.post_test": 2 * enough}
        yield Finding("warning", "proposals-too-few", what, split.name, "image", crowded(limit), override)
    sampled = {"rpn": config.rpn.sampling, "roi_head": config.roi_head.sampling} if split.name == "train" else {}
    for key, sampling in sampled.items():
        if most > (limit := int(sampling.batch_size * sampling.positive_fraction)):
            kind, needed = key.removesuffix("_head"), int(np.ceil(enough / sampling.positive_fraction))
            what = f"images with more objects than the {kind.upper()} sampling takes as positives ({limit})"
            override = {f"{key}.sampling.batch_size": needed}
            yield Finding("advice", f"{kind}-sampling", what, "train", "image", crowded(limit), override)


def check_object_sizes(split: Split, objects: NetworkObjects, config: TrainConfig) -> Iterator[Finding]:
    """Objects too small for the network, or too large for the mask head."""
    shortest = objects.lengths.min(axis=1)
    vanishing, small = shortest < MIN_SIDE, (objects.sides < SMALL) & (shortest >= MIN_SIDE)
    short, long = (int(np.median(side)) for side in (objects.sources.min(axis=1), objects.sources.max(axis=1)))
    current, longest = training_min_size(config), config.data.max_size
    larger = at_min_size(config, max(short, current)) | {"data.max_size": max(long, longest)}
    if short <= current and long <= longest:
        larger = {}
    if vanishing.any():
        what, items = "objects thinner than a network pixel: left out of training", objects.items(vanishing)
        many = vanishing.sum() > VANISHING_SHARE * len(objects)
        override, fix = (larger, "") if many and larger else ({}, "look at them; if they matter, set data.tile.size")
        yield Finding("warning", "object-vanishes", what, split.name, "annotation", items, override, fix)
    if small.sum() > SMALL_SHARE * len(objects):
        what = f"{percent(int(small.sum()), len(objects))} of the objects are smaller than {SMALL:.0f} network pixels"
        fix, items = "" if larger else f"larger {size_key(config)}, or data.tile.size", objects.items(small)
        yield Finding("advice", "objects-small", what, split.name, "annotation", items, larger, fix)
    never = np.setdiff1d(np.flatnonzero(split.is_object), objects.rows)
    if len(never):
        what = (
            f"objects of which no tile shows data.tile.min_visible={config.data.tile.min_visible:g}: never trained on"
        )
        items = split.index.items(never)
        fix = "a larger data.tile.size or data.tile.overlap, or a smaller data.tile.min_visible"
        yield Finding("warning", "tiles-too-small", what, split.name, "annotation", items, fix=fix)
    if config.mask_head.enabled:
        yield from _coarse_masks(split, objects, config)
    factor = float(np.median(objects.scales)) if len(objects.scales) else 1.0
    if factor > UPSCALED and (objects.sides < 2 * SMALL).mean() <= SMALL_SHARE:
        what = f"images are enlarged {factor:.1f} times, which costs time and adds nothing to see"
        least = _least(config)
        if max(least, short) < current:
            smaller = at_min_size(config, max(least, short)) | {"data.max_size": max(least, long)}
            yield Finding("advice", "images-enlarged", what, split.name, override=smaller)


def _least(config: TrainConfig) -> int:
    """The smallest size to advise: smaller images would be refused, or are too small for any network."""
    smallest = min(config.augmentation.min_sizes or [config.data.min_size]) / training_min_size(config)
    return max(16, math.ceil((least_side(config) + 1) / (smallest * config.augmentation.start_scale)))


def _coarse_masks(split: Split, objects: NetworkObjects, config: TrainConfig) -> Iterator[Finding]:
    resolution = 2 * config.mask_head.pooler.resolution
    coarse = objects.lengths.max(axis=1) > MASK_PIXEL * resolution
    if coarse.sum() > COARSE_SHARE * len(objects):
        what = (
            f"{percent(int(coarse.sum()), len(objects))} of the objects are so large that a pixel of their "
            f"{resolution} x {resolution} mask covers more than {MASK_PIXEL:.0f} network pixels"
        )
        override, items = {"mask_head.pooler.resolution": resolution}, objects.items(coarse)
        yield Finding("advice", "masks-coarse", what, split.name, "annotation", items, override)
