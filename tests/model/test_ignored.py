"""Ignored regions: what no object claims there is no background, on both paths; without any nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from launches import SMALL, counted, crowded_batch, our_step
from torch import Tensor

from maskrcnn_train.model.fixed_shape import sampling as fixed_sampling
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.matching import BACKGROUND, IGNORED, ignore_covered, match_boxes
from maskrcnn_train.model.paths import FIXED, FOLLOWING, Path, always_fixed
from maskrcnn_train.model.sampling import FILLING, SamplingRules
from maskrcnn_train.structures.batch import Target, to_device

Build = Callable[..., MaskRCNN]
EVERY = SamplingRules(upper=0.5, lower=0.4, batch_size=100_000, positive_fraction=1)
PATHS = pytest.mark.parametrize("path", [FOLLOWING, FIXED], ids=["following", "fixed"])
RULES = pytest.mark.parametrize("path_for", [lambda device: FOLLOWING, always_fixed], ids=["following", "fixed"])
REGION = [20.0, 20, 40, 40]
BOXES = {  # what they are beside an object at 30 30 60 60
    (30.0, 30.0, 60.0, 60.0): 1,
    (30.0, 30.0, 60.0, 52.0): 1,
    (20.0, 20.0, 40.0, 40.0): FILLING,  # the region itself
    (24.0, 24.0, 30.0, 30.0): FILLING,  # within it
    (32.0, 20.0, 52.0, 40.0): FILLING,  # 0.4 of the box
    (33.0, 20.0, 53.0, 40.0): 0,  # 0.35 of the box
    (0.0, 0.0, 90.0, 90.0): 0,  # holds the region
    (70.0, 0.0, 90.0, 10.0): 0,
}


def targets_with(*regions: list[list[float]], device: torch.device) -> list[Target]:
    """Images with one object, and their regions."""
    targets: list[Target] = []
    for number, own in enumerate(regions):
        targets.append({"boxes": torch.tensor([[30.0, 30, 60, 60]]), "labels": torch.tensor([1]), "image_id": number})
        if own:
            targets[-1]["ignored"] = torch.tensor(own)
    moved: list[Target] = to_device(targets, device)
    return moved


def labels_of(index: Tensor, labels: Tensor, count: int) -> list[int]:
    """The label of each of `count` rows, FILLING where it was not drawn."""
    found = torch.full((count,), FILLING)
    drawn = labels.cpu() != FILLING
    found[index.cpu()[drawn]] = labels.cpu()[drawn]
    return found.tolist()


@PATHS
def test_anchors_in_a_region_are_neither_object_nor_background(path: Path, device: torch.device) -> None:
    boxes = torch.tensor([*BOXES], device=device)
    targets = targets_with([REGION], [], [[0.0, 0, 1, 1], REGION], device=device)
    samples = path.sample_anchors(boxes, targets, EVERY)
    found = labels_of(samples.index, samples.labels, 3 * len(boxes))
    plain = [max(label, 0) for label in BOXES.values()]
    assert found == [*BOXES.values(), *plain, *BOXES.values()]


@PATHS
def test_proposals_in_a_region_are_neither_object_nor_background(path: Path, device: torch.device) -> None:
    boxes = torch.tensor([*BOXES], device=device)
    samples = path.sample_proposals([boxes, boxes], targets_with([REGION], [], device=device), EVERY)
    for image, ignored in ((0, True), (1, False)):
        own = (samples.images == image) & (samples.labels != FILLING)
        drawn = {
            (*box,): label for box, label in zip(samples.boxes[own].tolist(), samples.labels[own].tolist(), strict=True)
        }
        expected = {box: max(label, 0) for box, label in BOXES.items() if label != FILLING or not ignored}
        assert drawn == expected


@PATHS
def test_a_region_over_everything_leaves_the_objects(path: Path, device: torch.device) -> None:
    boxes = torch.tensor([*BOXES], device=device)
    targets = targets_with([[0.0, 0, 100, 100]], device=device)
    anchors, proposals = path.sample_anchors(boxes, targets, EVERY), path.sample_proposals([boxes], targets, EVERY)
    for samples in (anchors, proposals):
        assert set(samples.labels.tolist()) - {FILLING} == {1}


def test_matches_are_the_same_on_both_paths(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_sampling, "PAIRS", 500)  # in pieces
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((2, 400, 2), generator=generator) * 80
    boxes = torch.cat((corners, corners + torch.rand((2, 400, 2), generator=generator) * 50), dim=2).to(device)
    targets = targets_with(boxes[0, :7].tolist(), boxes[1, :3].tolist(), device=device)
    alone = [
        match_boxes(target["boxes"], own, upper=0.5, lower=0.5, keep_best=False)
        for target, own in zip(targets, boxes, strict=True)
    ]
    found = fixed_sampling.ignore_covered(torch.stack(alone), boxes, targets, 0.5)
    for target, own, matches, fixed in zip(targets, boxes, alone, found, strict=True):
        expected = ignore_covered(matches, own, target["ignored"], 0.5)
        assert torch.equal(fixed, expected)
        changed = expected != matches
        assert 5 < int(changed.sum()) < 200
        assert (matches[changed] == BACKGROUND).all()
        assert (expected[changed] == IGNORED).all()


@RULES
def test_losses_learn_nothing_where_everything_is_ignored(
    small_model: Build, path_for: Callable[[torch.device], Path], device: torch.device
) -> None:
    model = small_model("backbone.norm=frozen", path_for=path_for)
    images, targets = to_device(list(crowded_batch([0, 0], side=96)), device)
    plain = model(images, targets)
    assert plain["loss_objectness"].item() > 0
    for target in targets:
        target["ignored"] = torch.tensor([[0.0, 0, 96, 96]], device=device) + torch.tensor(
            [-1e3, -1e3, 1e3, 1e3], device=device
        )
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(loss.item() == 0 for loss in losses.values())
    assert all(bool(torch.isfinite(each.grad).all()) for each in model.parameters() if each.grad is not None)


@RULES
def test_an_empty_list_of_regions_changes_no_bit(
    small_model: Build, path_for: Callable[[torch.device], Path], device: torch.device
) -> None:
    model = small_model("backbone.norm=frozen", path_for=path_for)
    images, targets = to_device(list(crowded_batch([3, 2], side=96)), device)
    seen = []
    for regions in (None, torch.zeros((0, 4), device=device)):
        for target in targets:
            if regions is not None:
                target["ignored"] = regions
        torch.manual_seed(0)
        seen.append({name: loss.item() for name, loss in model(images, targets).items()})
    assert seen[0] == seen[1]


def test_a_list_of_images_resizes_its_regions(small_model: Build, device: torch.device) -> None:
    model = small_model("backbone.norm=frozen", "data.min_size=96", "data.max_size=96")
    image = torch.rand((3, 48, 48), device=device)
    target: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    target["ignored"] = torch.tensor([[-500.0, -500, 600, 600]])
    assert model([image], [target])["loss_objectness"].item() == 0
    target["ignored"] = torch.tensor([[0.0, 0, 1, 1]])
    assert model([image], [target])["loss_objectness"].item() > 0


def test_regions_cost_few_launches() -> None:
    images, targets = crowded_batch([2, 5])
    without = counted(our_step([2, 5], *SMALL)).operations.total()
    with pytest.MonkeyPatch.context() as patch:
        targets[0]["ignored"] = torch.tensor([REGION])
        patch.setattr("launches.crowded_batch", lambda counts: (images, targets))
        with_regions = counted(our_step([2, 5], *SMALL)).operations.total()
    assert 0 < with_regions - without < 60
