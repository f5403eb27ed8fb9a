from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from maskrcnn_train import load_config
from maskrcnn_train.checking.anchors import anchor_table, check_anchors, fit_anchors
from maskrcnn_train.checking.objects import NetworkObjects
from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.model.anchors import AnchorGrid
from maskrcnn_train.model.boxes import pairwise_iou

SIZES, RATIOS = [20.0, 33.0, 64.0, 128.0, 200.0], [0.5, 1.0, 2.0]


def random_objects(count: int, size: tuple[int, int], seed: int = 0, longest: float = 150) -> NetworkObjects:
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(0, np.log(longest), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * np.maximum(1, np.array(size[::-1]) - sides)
    boxes = np.concatenate([corners, np.minimum(corners + sides, np.array(size[::-1]))], axis=1)
    sizes = np.tile(np.array(size), (count, 1))
    index = cast(AnnotationIndex, SimpleNamespace(items=list))
    return NetworkObjects(
        index, np.arange(count), boxes, sizes, np.array([count]), np.ones(1), sizes[:1], np.zeros(1, int)
    )


@pytest.mark.parametrize(("rounding", "strides"), [(True, "inferred"), (False, "fixed")])
def test_the_best_iou_is_that_over_all_anchors_of_the_network(rounding: bool, strides: str) -> None:
    size = (230, 301)
    objects = random_objects(300, size)
    padded = (256, 320)
    grids = [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in (4, 8, 16, 32, 64)]
    grid = AnchorGrid(sizes=SIZES, aspect_ratios=RATIOS, rounding=rounding, strides=strides)
    anchors = grid(padded, grids, torch.device("cpu"))
    expected, places = pairwise_iou(torch.from_numpy(objects.boxes).float(), anchors).max(dim=1)
    numerics = replace(load_config().numerics, anchor_rounding=rounding, anchor_strides=strides)
    fit = fit_anchors(objects, SIZES, RATIOS, numerics)
    np.testing.assert_allclose(fit.best, expected.numpy(), atol=1e-5)
    ends = np.cumsum([rows * columns * len(RATIOS) for rows, columns in grids])
    levels = np.searchsorted(ends, places.numpy(), side="right")
    assert (fit.levels == levels).mean() > 0.99  # ties between levels aside


def test_anchors_of_the_objects_size_are_advised_and_good_ones_left_alone() -> None:
    tiny = random_objects(500, (800, 1088), longest=24)
    config = load_config()

    def kinds(sizes: list[float]) -> dict[str, dict[str, object]]:
        config.rpn.anchors.sizes = sizes
        fit = fit_anchors(tiny, sizes, config.rpn.anchors.aspect_ratios, config.numerics)
        assert sum(row.objects for row in anchor_table(fit, config)) == 500
        return {finding.kind: finding.override for finding in check_anchors(tiny, fit, config)}

    found = kinds([64, 128, 256, 512, 1024])
    assert set(found) == {"anchors-poor", "anchors-better"}
    advised = found["anchors-better"]["rpn.anchors.sizes"]
    assert isinstance(advised, list)
    assert max(advised) < 64
    assert "anchors-better" not in kinds(advised)


@pytest.mark.parametrize(("source", "advised"), [("none", ["sizes", "aspect_ratios"]), ("coco", ["sizes"])])
def test_other_ratios_are_advised_where_no_published_predictors_would_be_lost(source: str, advised: list[str]) -> None:
    thin = random_objects(200, (800, 1088), longest=24)
    thin.boxes[:, 3] = thin.boxes[:, 1] + 4 * (thin.boxes[:, 2] - thin.boxes[:, 0])
    config = load_config()
    config.weights.source = source
    fit = fit_anchors(thin, SIZES, RATIOS, config.numerics)
    found = {finding.kind: finding.override for finding in check_anchors(thin, fit, config)}["anchors-better"]
    assert [*found] == [f"rpn.anchors.{key}" for key in advised]
