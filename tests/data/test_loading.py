from __future__ import annotations

import logging
import multiprocessing
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_coco import Configure, roboflow, small_coco
from tiny import TINY

from maskrcnn_train import build_model
from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.loading import DetectionLoader, build_loaders
from maskrcnn_train.data.order import EpochBatchSampler, percent_of_size
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.data.tile_layout import repeat_factors
from maskrcnn_train.engine.distributed import ALONE
from maskrcnn_train.prediction.validation import Validation
from maskrcnn_train.reporting.tensorboard import MetricWriter
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.batch import ImageBatch, MaskCrops, Target


def sampler(count: int = 23, batch_size: int = 3, rank: int = 0, world_size: int = 1) -> EpochBatchSampler:
    wide = np.arange(count) % 3 == 0
    return EpochBatchSampler(wide=wide, batch_size=batch_size, seed=5, rank=rank, world_size=world_size)


def epoch_of(batches: EpochBatchSampler, epoch: int, start_batch: int = 0) -> list[list[tuple[int, int]]]:
    batches.set_epoch(epoch, start_batch)
    return list(batches)


def test_an_epoch_shows_every_image_once() -> None:
    for count in (1, 2, 3, 22, 23, 24):
        batches = epoch_of(sampler(count), 0)
        assert sorted(position for batch in batches for _, position in batch) == list(range(count))
        assert len(batches) == len(sampler(count))


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert epoch_of(sampler(), 4) == epoch_of(sampler(), 4)
    assert [p for b in epoch_of(sampler(), 4) for _, p in b] != [p for b in epoch_of(sampler(), 5) for _, p in b]
    assert epoch_of(sampler(), 4) != epoch_of(replace(sampler(), seed=6), 4)


def test_resuming_continues_the_same_order() -> None:
    assert epoch_of(sampler(), 2, start_batch=3) == epoch_of(sampler(), 2)[3:]


def test_images_grow_with_the_training(tmp_path: Path, configure: Configure) -> None:
    """From 0.75 of their size at the start to all of it at 0.8 of the training."""
    roboflow(tmp_path / "data", small_coco(8))
    config = configure("trainer.batch_size=1", "augmentation.start_scale=0.75", "augmentation.full_size_from=0.8")
    loader = build_loaders(config).train
    full = {targets[0]["image_id"]: images.sizes[0] for images, targets in collect(loader, 1)}
    loader.set_epoch(0, percent=lambda batch: percent_of_size(config.augmentation, batch / 10))
    grown = list(loader)
    assert len(grown) == 8
    for batch, (images, targets) in enumerate(grown):
        share = round(0.75 + 0.25 * batch / 8, 2)
        height, width = full[targets[0]["image_id"]]
        assert images.sizes[0] == pytest.approx((height * share, width * share), abs=1.5)
        assert images.sizes[0] == (height, width) or batch < 8
        assert targets[0]["boxes"][:, 2].max() <= images.sizes[0][1]
    loader.set_epoch(0, 3, percent=lambda batch: percent_of_size(config.augmentation, batch / 10))
    resumed = list(loader)
    assert [images.sizes for images, _ in resumed] == [images.sizes for images, _ in grown[3:]]
    loader.set_epoch(0, percent=lambda batch: percent_of_size(config.augmentation, 0.8))
    assert {targets[0]["image_id"]: images.sizes[0] for images, targets in loader} == full


def test_whole_batches_hold_images_of_one_shape() -> None:
    batches = epoch_of(sampler(60, 4), 0)
    shapes = [{position % 3 == 0 for _, position in batch} for batch in batches]
    assert sum(len(each) > 1 for each in shapes) <= 1
    wide = [each == {True} for each in shapes]
    assert wide not in (sorted(wide), sorted(wide, reverse=True))


@pytest.mark.parametrize("count", [1, 5, 6, 7, 23])
def test_ranks_get_equally_many_batches_and_miss_nothing(count: int) -> None:
    ranks = [epoch_of(sampler(count, 2, rank, 3), 1) for rank in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    assert {position for batches in ranks for batch in batches for _, position in batch} == set(range(count))
    assert all(batch for batches in ranks for batch in batches)
    assert sum(len(batch) for batches in ranks for batch in batches) <= count + 2  # those that fill the last batch


def repeating(repeats: list[float], rank: int = 0, world_size: int = 1) -> EpochBatchSampler:
    wide = np.arange(len(repeats)) % 2 == 0
    options = {"batch_size": 3, "seed": 5, "rank": rank, "world_size": world_size}
    return EpochBatchSampler(wide=wide, repeats=np.array(repeats), **options)


def test_repeated_images_come_as_often_as_asked_and_epochs_are_equally_long() -> None:
    repeats = [1.0, 2.5, 1.0, 3.2, 1.0, 1.0, 1.3, 1.0, 1.0]
    sampler = repeating(repeats)
    seen = np.zeros(len(repeats))
    for epoch in range(200):
        keys = [key for batch in epoch_of(sampler, epoch) for key in batch]
        assert len(keys) == sampler.num_images == 13
        assert len(epoch_of(sampler, epoch)) == len(sampler)
        assert len(set(keys)) == len(keys)  # each time with a draw of its own
        counts = np.bincount([key[1] for key in keys], minlength=len(repeats))
        assert (counts >= 1).all()
        assert (np.abs(counts - np.array(repeats)) < 1.1).all()
        seen += counts
    np.testing.assert_allclose(seen / 200, np.array(repeats) * 13 / sum(repeats), atol=0.15)


def test_repeats_follow_from_seed_and_epoch_and_are_shared_among_ranks() -> None:
    repeats = [1.0, 2.5, 1.0, 3.2, 1.0]
    assert epoch_of(repeating(repeats), 4) == epoch_of(repeating(repeats), 4) != epoch_of(repeating(repeats), 5)
    whole = {key for batch in epoch_of(repeating(repeats), 4) for key in batch}
    ranks = [epoch_of(repeating(repeats, rank, 2), 4) for rank in range(2)]
    assert {key for batches in ranks for batch in batches for key in batch} == whole
    assert len(ranks[0]) == len(ranks[1])


def test_repeat_factors_follow_the_rarest_class_of_an_image() -> None:
    presence = np.zeros((100, 3), dtype=bool)
    presence[:, 0] = True
    presence[:4, 1] = True
    presence[3, 2] = True
    factors = repeat_factors(presence, 0.16)
    np.testing.assert_allclose(factors[[0, 3, 50]], [2.0, 4.0, 1.0])
    assert repeat_factors(np.zeros((3, 2), dtype=bool), 0.5).tolist() == [1, 1, 1]


def test_repeat_threshold_brings_rare_classes_more_often(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco(8)
    coco["annotations"] = [item for item in coco["annotations"] if item["category_id"] == 3 or item["image_id"] == 2]
    roboflow(tmp_path / "data", coco)
    ids = [
        [target["image_id"] for _, targets in collect(build_loaders(configure(option)).train, 1) for target in targets]
        for option in ("data.repeat_threshold=0", "data.repeat_threshold=1")
    ]
    assert sorted(ids[0]) == list(range(1, 9))
    assert ids[1].count(2) >= 2
    assert len(ids[1]) == 10  # sqrt(8) = 2.8 times image 2


def test_group_by_shape_keeps_wide_and_tall_images_apart(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco(12))
    mixed = []
    for option in ("true", "false"):
        batches = collect(build_loaders(configure(f"data.group_by_shape={option}", "trainer.batch_size=3")).train, 4)
        mixed.append(sum(len({h < w for h, w in images.sizes}) > 1 for images, _ in batches))
    assert mixed[0] == 0 < mixed[1]


def test_validation_is_in_order_and_shared_without_repeats(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco(5))
    config = configure("evaluation.batch_size=2")
    ids = [
        [target["image_id"] for _, targets in build_loaders(config, rank=rank, world_size=2).val for target in targets]
        for rank in range(2)
    ]
    assert ids == [[1, 3, 5], [2, 4]]


def collect(loader: DetectionLoader, epochs: int = 2) -> list[tuple[ImageBatch, list[Target]]]:
    batches = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        batches += list(loader)
    return batches


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco(7))
    options = ("augmentation=lsj", "augmentation.color_jitter=0.5")
    alone, shared = (
        collect(build_loaders(configure(*options, f"trainer.num_workers={workers}")).train) for workers in (0, 2)
    )
    assert len(alone) == len(shared) == 8
    for (images, targets), (other_images, other_targets) in zip(alone, shared, strict=True):
        torch.testing.assert_close(images.pixels, other_images.pixels)
        assert (images.sizes, images.original_sizes) == (other_images.sizes, other_images.original_sizes)
        for target, other in zip(targets, other_targets, strict=True):
            assert target["image_id"] == other["image_id"]
            torch.testing.assert_close(target["boxes"], other["boxes"])
            torch.testing.assert_close(target["labels"], other["labels"])
            masks, other_masks = target["masks"], other["masks"]
            assert isinstance(masks, MaskCrops)
            assert isinstance(other_masks, MaskCrops)
            torch.testing.assert_close(masks.dense(), other_masks.dense())


def test_an_unreadable_image_stops_or_is_skipped(
    tmp_path: Path, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    roboflow(tmp_path / "data", small_coco(4))
    for folder in ("train", "valid"):
        (tmp_path / "data" / folder / "2.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"2\.png cannot be read"):
        collect(build_loaders(configure()).train)
    loaders = build_loaders(configure("data.on_bad_image=skip"))
    with caplog.at_level(logging.WARNING):
        ids = [target["image_id"] for _, targets in collect(loaders.train) for target in targets]
    assert sorted(ids) == [1, 1, 3, 3, 3, 3, 4, 4]
    assert list(loaders.train.bad_images.values()) == [2]
    assert caplog.text.count("2.png") == 1
    assert [target["image_id"] for _, targets in loaders.val for target in targets] == [1, 3, 4]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_line_wherever_it_was_read(
    workers: int, tmp_path: Path, configure: Configure
) -> None:
    roboflow(tmp_path / "data", small_coco(4))
    (tmp_path / "data/train/2.png").write_bytes(b"broken")
    loaders = build_loaders(configure(f"trainer.num_workers={workers}"))
    with closing(loaders), pytest.raises(ImageError) as error:
        collect(loaders.train)
    assert str(error.value) == f"{tmp_path / 'data/train/2.png'} cannot be read as an image: cannot identify image file"


SCRIPT = """
import multiprocessing, sys
multiprocessing.set_start_method("spawn", force=True)
from maskrcnn_train import load_config, train
train(load_config(sys.argv[1:]))
"""


def test_a_script_that_spawned_workers_import_is_told_to_guard_its_work(shapes: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", *TINY, shapes, "trainer.num_workers=1", "trainer.max_steps=1"],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    for said in (done.stderr, done.stderr.splitlines()[-1]):  # of the process, and of the training
        assert "a file and begin its work below `if __name__ == '__main__':`" in said
    assert len(list((tmp_path / "runs/train").iterdir())) == 1  # the worker made none


def test_closed_loaders_leave_no_process_and_can_be_read_again(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco(4))
    loaders = build_loaders(configure("trainer.num_workers=2"))
    with closing(loaders):
        batch = next(iter(loaders.train))
        workers = multiprocessing.active_children()
        assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)
    with closing(loaders):
        assert torch.equal(next(iter(loaders.train))[0].pixels, batch[0].pixels)


@pytest.mark.parametrize("stuck", [False, True])
def test_an_error_beside_workers_ends_the_process_within_seconds(
    stuck: bool, tmp_path: Path, configure: Configure
) -> None:
    roboflow(tmp_path / "data", small_coco(8))
    script = """
import sys, time
from maskrcnn_train import build_loaders, load_config
from maskrcnn_train.data.dataset import CocoDataset
loaders, load = build_loaders(load_config(sys.argv[2:])), CocoDataset._load
def slow(self, key):
    time.sleep(100 if sys.argv[1] == "True" and key[1] > 2 else 0)
    return load(self, key)
CocoDataset._load = slow
for batch in loaders.train:
    failed = time.monotonic()
    raise KeyError(failed)
"""
    settings = ["data=roboflow", f"data.root={tmp_path / 'data'}", "trainer.num_workers=2", "trainer.batch_size=1"]
    done = subprocess.run(
        [sys.executable, "-c", script, str(stuck), *settings], capture_output=True, text=True, timeout=90
    )
    raised = float(done.stderr.rstrip().rsplit("KeyError: ", 1)[1])
    assert time.monotonic() - raised < 10, done.stderr


def test_an_unreadable_validation_image_is_left_out_of_scores_and_pictures(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    roboflow(tmp_path / "data", small_coco(3))
    (tmp_path / "data/valid/2.png").write_bytes(b"broken")
    config = configure("data.on_bad_image=skip", "backbone=resnet18", "evaluation.pictures=3")
    loaders = build_loaders(config)
    validation = Validation(loaders.val, config, ALONE)
    validation.evaluate(build_model(config, 3))
    assert validation.result is not None
    assert validation.result.support == {3: 2, 7: 2}
    assert [image["id"] for image in validation.scored["images"]] == [1, 3]
    assert [image["id"] for image in validation.ground_truth["images"]] == [1, 2, 3]
    with MetricWriter(tmp_path / "run") as writer:
        names = [path.stem for path in validation.draw(tmp_path / "run", writer, step=0)]
    assert names == ["00000", "00002"]


def test_keep_empty_false_leaves_empty_images_out_of_training_only(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco()
    coco["annotations"] = [item for item in coco["annotations"] if item["image_id"] != 2]
    roboflow(tmp_path / "data", coco)
    loaders = build_loaders(configure("data.keep_empty=false"))
    assert (len(loaders.train.dataset), len(loaders.val.dataset)) == (3, 4)


def test_mask_head_none_leaves_masks_out(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco())
    _, targets = next(iter(build_loaders(configure("mask_head=none")).train))
    assert all("masks" not in target for target in targets)


def test_the_splits_report_classes_and_what_was_skipped(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco()
    coco["annotations"][0]["bbox"] = [0, 0, 0, 0]
    roboflow(tmp_path / "data", coco, small_coco())
    splits = read_splits(configure())
    assert build_loaders(configure(), splits=splits).classes == splits.classes
    assert splits.classes.num_classes == 3
    assert {name: table.num_dropped for name, table in splits.skipped.items()} == {"train": 1, "val": 0}


def test_processes_that_cannot_start_are_one_line(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")  # of /dev/shm, where their semaphores are

    roboflow(tmp_path / "data", small_coco())
    loaders = build_loaders(configure("trainer.num_workers=1"))
    monkeypatch.setattr(torch.multiprocessing, "Lock", full)
    with closing(loaders), pytest.raises(UserError, match=r"No space left on device\): is /dev/shm full"):
        next(iter(loaders.train))
