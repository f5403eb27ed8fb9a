"""Checks sizes and numbers of objects against the limits of the settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn_train.checking.findings import Finding, percent
from maskrcnn_train.checking.objects import NetworkObjects
from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.data.transforms import MIN_SIDE
from maskrcnn_train.settings.schema import TrainConfig

VANISHING_SHARE = 0.01  # of the objects; above it a larger network size is worth its cost
SMALL = 12.0  # network pixels, square root of the area: hardly more than one cell of the finest feature map
SMALL_SHARE = 0.2
MASK_PIXEL = 8.0  # network pixels that one pixel of the predicted mask may cover
COARSE_SHARE = 0.25
UPSCALED = 1.5


def check_objects_per_image(split: Split, objects: NetworkObjects, config: TrainConfig) -> list[Finding]:
    """Images with more objects than can be found, scored or sampled."""
    most = int(objects.per_image.max(initial=0))
    enough = -(-most // 50) * 50

    def crowded(limit: int) -> list[str]:
        return [split.index.file_name(row) for row in split.rows[objects.per_image > limit].tolist()]

    findings = []
    kept, scored = config.roi_head.detections_per_image, config.evaluation.max_detections
    if most > min(kept, scored[-1]):
        override: dict[str, Any] = {"roi_head.detections_per_image": max(kept, enough)}
        if scored[-1] < enough:
            override["evaluation.max_detections"] = [*scored[:-1], enough]
        what = f"images with more objects than detections are kept ({kept}) or scored ({scored[-1]}); up to {most}"
        names = crowded(min(kept, scored[-1]))
        findings.append(Finding("warning", "detections-too-few", what, split.name, "image", names, override))
    if most > config.rpn.nms.post_test:
        what = f"images with more objects than proposals are kept in evaluation ({config.rpn.nms.post_test})"
        override = {"rpn.nms.post_test": 2 * enough}
        names = crowded(config.rpn.nms.post_test)
        findings.append(Finding("warning", "proposals-too-few", what, split.name, "image", names, override))
    if split.name != "train":
        return findings
    for kind, section, key in (("rpn", config.rpn, "rpn"), ("roi", config.roi_head, "roi_head")):
        limit = int(section.sampling.batch_size * section.sampling.positive_fraction)
        if most > limit:
            needed = int(np.ceil(enough / max(section.sampling.positive_fraction, 0.01)))
            what = f"images with more objects than the {kind.upper()} sampling takes as positives ({limit})"
            override = {f"{key}.sampling.batch_size": needed}
            findings.append(Finding("advice", f"{kind}-sampling", what, "train", "image", crowded(limit), override))
    return findings


def check_object_sizes(split: Split, objects: NetworkObjects, config: TrainConfig) -> list[Finding]:
    """Objects too small for the network, or too large for the mask head."""
    findings = []
    shortest = np.minimum(objects.widths, objects.heights)
    vanishing, small = shortest < MIN_SIDE, (objects.sides < SMALL) & (shortest >= MIN_SIDE)
    larger = _native_size(split, config)
    if vanishing.any():
        what, ids = "objects thinner than a network pixel: left out of training", objects.ids[vanishing].tolist()
        many = vanishing.sum() > VANISHING_SHARE * len(objects)
        override, fix = (larger, "") if many and larger else ({}, "look at them; if they matter, cut images into tiles")
        findings.append(Finding("warning", "object-vanishes", what, split.name, "annotation", ids, override, fix))
    if small.sum() > SMALL_SHARE * len(objects):
        what = f"{percent(int(small.sum()), len(objects))} of the objects are smaller than {SMALL:.0f} network pixels"
        fix, ids = "" if larger else "larger data.min_size, or tiles", objects.ids[small].tolist()
        findings.append(Finding("advice", "objects-small", what, split.name, "annotation", ids, larger, fix))
    return [*findings, *_coarse_masks(split, objects, config), *_upscaled(split, objects, config)]


def _native_size(split: Split, config: TrainConfig) -> dict[str, int]:
    """The network size at which the median image keeps its pixels; {} if it already does."""
    sides = np.asarray(split.index.image_sizes)[split.rows]
    short, long = int(np.median(sides.min(axis=1))), int(np.median(sides.max(axis=1)))
    if short <= config.data.min_size and long <= config.data.max_size:
        return {}
    return {"data.min_size": max(short, config.data.min_size), "data.max_size": max(long, config.data.max_size)}


def _coarse_masks(split: Split, objects: NetworkObjects, config: TrainConfig) -> list[Finding]:
    if config.mask_head.name == "none":
        return []
    resolution = 2 * config.mask_head.pooler.resolution
    coarse = np.maximum(objects.widths, objects.heights) > MASK_PIXEL * resolution
    if coarse.sum() <= COARSE_SHARE * len(objects):
        return []
    what = (
        f"{percent(int(coarse.sum()), len(objects))} of the objects are so large that a pixel of their "
        f"{resolution} x {resolution} mask covers more than {MASK_PIXEL:.0f} network pixels"
    )
    override = {"mask_head.pooler.resolution": resolution}
    ids = objects.ids[coarse].tolist()
    return [Finding("advice", "masks-coarse", what, split.name, "annotation", ids, override)]


def _upscaled(split: Split, objects: NetworkObjects, config: TrainConfig) -> list[Finding]:
    factor = float(np.median(objects.scales)) if len(objects.scales) else 1.0
    if factor <= UPSCALED or (objects.sides < 2 * SMALL).mean() > SMALL_SHARE:
        return []
    sides = np.asarray(split.index.image_sizes)[split.rows]
    short, long = int(np.median(sides.min(axis=1))), int(np.median(sides.max(axis=1)))
    what = f"images are enlarged {factor:.1f} times, which costs time and adds nothing to see"
    override = {"data.min_size": max(16, short), "data.max_size": max(16, long)}
    return [Finding("advice", "images-enlarged", what, split.name, override=override)]
