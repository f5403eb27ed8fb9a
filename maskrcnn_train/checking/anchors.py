"""How well the anchors fit the objects at the network size, and which anchors would fit better."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from maskrcnn_train.checking.findings import Finding, percent
from maskrcnn_train.checking.objects import NetworkObjects, size_key
from maskrcnn_train.settings.schema import FPN_LEVELS, NumericsConfig, TrainConfig
from maskrcnn_train.structures.arrays import Floats, Ints

STRIDES = (4, 8, 16, 32, 64)
CHUNK = 65_536  # objects compared at a time
SAMPLE = 4_000  # objects that other anchors are tried on
POOR_SHARE = 0.1  # of objects below `rpn.iou.lower` with every anchor; more is a warning
GAIN = 0.05  # of the mean best IoU for which other anchors are advised
ROUNDS = 3
COST = 0.01  # mean IoU that an aspect ratio must add: each is a third more anchors
FACTORS = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0)
RATIOS = ([0.5, 1.0, 2.0], [0.33, 1.0, 3.0], [0.25, 0.5, 1.0, 2.0], [0.5, 1.0, 2.0, 4.0], [0.25, 0.5, 1.0, 2.0, 4.0])


class AnchorFit(NamedTuple):
    """best: float64 [N], highest IoU of each object with an anchor; levels: int64 [N], that anchor's level."""

    best: Floats
    levels: Ints


class AnchorRow(NamedTuple):
    """One level: anchor size, number of objects that it fits best, and their mean IoU.

    only_as_best: how many of them stay below rpn.iou.upper, positives only because an object's best anchor always is;
    hardly: below rpn.iou.lower.
    """

    level: str
    size: float
    objects: int
    mean_iou: float
    only_as_best: int
    hardly: int


def fit_anchors(
    objects: NetworkObjects, sizes: list[float], ratios: list[float], numerics: NumericsConfig
) -> AnchorFit:
    """The best IoU of every object over all anchors of its image, as the RPN lays them out.

    The IoU with an anchor of given size falls with the distance of the centres along each axis, so that only the
    nearest anchor position of each level has to be looked at.
    """
    best, levels = np.full(len(objects), -1.0), np.zeros(len(objects), dtype=np.int64)
    for start in range(0, len(objects), CHUNK):
        part = slice(start, start + CHUNK)
        boxes, padded = objects.boxes[part], -(-objects.sizes[part] // 32) * 32
        for level, size in enumerate(sizes):
            distance = _distance(boxes, padded, level, numerics.anchor_strides == "fixed")
            for ratio in ratios:
                iou = _iou(boxes, distance, _cell(size, ratio, numerics.anchor_rounding))
                better = iou > best[part]
                best[part] = np.where(better, iou, best[part])
                levels[part] = np.where(better, level, levels[part])
    return AnchorFit(best, levels)


def _cell(size: float, ratio: float, rounding: bool) -> tuple[float, float]:
    """(width, height) of an anchor; see `model.anchors.cell_anchors`."""
    width, height = size / ratio**0.5, size * ratio**0.5
    return (2.0 * round(width / 2), 2.0 * round(height / 2)) if rounding else (width, height)


def _distance(boxes: Floats, padded: Ints, level: int, fixed_strides: bool) -> Floats:
    """Of each object's centre to the nearest anchor position: float64 [N, 2] x y, network pixels."""
    grids = -(-padded // STRIDES[level])
    strides = np.full_like(padded, STRIDES[level]) if fixed_strides else padded // grids
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    positions = np.clip(np.round(centres / strides[:, ::-1]), 0, grids[:, ::-1] - 1) * strides[:, ::-1]
    return np.asarray(np.abs(centres - positions))


def _iou(boxes: Floats, distance: Floats, cell: tuple[float, float]) -> Floats:
    sides = boxes[:, 2:] - boxes[:, :2]
    anchor = np.asarray(cell)
    shared = np.clip(np.minimum(np.minimum(sides, anchor), (sides + anchor) / 2 - distance), 0, None).prod(axis=1)
    return np.asarray(shared / (sides.prod(axis=1) + anchor.prod() - shared))


def anchor_table(fit: AnchorFit, config: TrainConfig) -> list[AnchorRow]:
    """How the anchors of each level fit."""
    rows = []
    for level, (name, size) in enumerate(zip(FPN_LEVELS, config.rpn.anchors.sizes, strict=True)):
        best = fit.best[fit.levels == level]
        saved, poor = int((best < config.rpn.iou.upper).sum()), int((best < config.rpn.iou.lower).sum())
        rows.append(AnchorRow(name, size, len(best), float(best.mean()) if len(best) else 0.0, saved, poor))
    return rows


def check_anchors(objects: NetworkObjects, fit: AnchorFit, config: TrainConfig) -> Iterator[Finding]:
    """Objects that no anchor fits, and anchors that would fit better."""
    iou = config.rpn.iou
    poor, saved = fit.best < iou.lower, fit.best < iou.upper
    better, gained = _better_anchors(objects, config)
    if poor.sum() > POOR_SHARE * len(objects):
        what = f"{percent(int(poor.sum()), len(objects))} of the objects meet no anchor at IoU {iou.lower}"
        fix = "" if better else f"smaller or larger rpn.anchors.sizes, or another {size_key(config)}"
        items = objects.items(poor)
        yield Finding("warning", "anchors-poor", what, "train", "annotation", items, better, fix)
    if better:
        what = (
            f"{percent(int(saved.sum()), len(objects))} of the objects have only their best anchor; other anchors "
            f"raise the mean best IoU from {fit.best.mean():.2f} to {gained:.2f}"
        )
        items = objects.items(saved)
        yield Finding("advice", "anchors-better", what, "train", "annotation", items, better)


def _better_anchors(objects: NetworkObjects, config: TrainConfig) -> tuple[dict[str, Any], float]:
    """The overrides of clearly better anchors and their mean best IoU; {} if there are none.

    With published weights the ratios stay: another number of them would reinitialize the RPN's predictors.
    """
    sample = np.random.default_rng(0).permutation(len(objects))[:SAMPLE]
    some = replace(objects, rows=objects.rows[sample], boxes=objects.boxes[sample], sizes=objects.sizes[sample])

    def score(sizes: list[float], ratios: list[float]) -> float:
        fit = fit_anchors(some, sizes, ratios, config.numerics)
        return float(fit.best.mean()) if len(some) else 0.0

    sizes, ratios = config.rpn.anchors.sizes, config.rpn.anchors.aspect_ratios
    now = reached = score(sizes, ratios)
    keeps_predictors = config.weights.source not in ("none", "imagenet")
    for _ in range(ROUNDS):
        scaled = [[float(max(4, round(size * factor))) for size in sizes] for factor in FACTORS]
        sizes = max([sizes, *scaled, *_quantiles(some.sides)], key=lambda sizes: score(sizes, ratios))
        if not keeps_predictors:
            ratios = max([ratios, *RATIOS], key=lambda ratios: score(sizes, ratios) - COST * len(ratios))
        before, reached = reached, score(sizes, ratios)
        if reached <= before:
            break
    found: dict[str, Any] = {"rpn.anchors.sizes": sizes}
    if ratios != config.rpn.anchors.aspect_ratios:
        found["rpn.anchors.aspect_ratios"] = ratios
    return (found, reached) if reached > now + GAIN else ({}, now)


def _quantiles(sides: Floats) -> list[list[float]]:
    """Sizes that the objects have themselves, ascending and each at least a quarter above the one before."""
    if not len(sides):
        return []
    tried = []
    for low, high in ((0.1, 0.9), (0.05, 0.95), (0.02, 0.98)):
        sizes = [float(max(4, round(size))) for size in np.quantile(sides, np.linspace(low, high, len(STRIDES)))]
        for level in range(1, len(sizes)):
            sizes[level] = max(sizes[level], float(np.ceil(1.25 * sizes[level - 1])))
        tried.append(sizes)
    return tried
