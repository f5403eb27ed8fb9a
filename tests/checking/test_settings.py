from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from planted_data import DataSet
from small_coco import roboflow, small_coco

from maskrcnn_train import load_config
from maskrcnn_train.checking.advice import combined
from maskrcnn_train.checking.findings import Finding, findings_table
from maskrcnn_train.checking.objects import resized_sizes
from maskrcnn_train.checking.settings import quick_check
from maskrcnn_train.data.loading import build_loaders
from maskrcnn_train.data.order import EpochBatchSampler
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.data.tile_layout import epoch_length
from maskrcnn_train.data.transforms import resized_size


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    root = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKRCNN_TRAIN_CACHE", str(root / "cache"))
        yield DataSet(root / "data").write()


@pytest.fixture(scope="module")
def usual(settings: list[str]) -> set[str]:
    """What is found without a change."""
    return set(kinds(settings))


def kinds(overrides: list[str]) -> dict[str, Finding]:
    config = load_config(overrides)
    return {finding.kind: finding for finding in quick_check(config, read_splits(config))}


@pytest.mark.parametrize(
    ("change", "kind", "advised"),
    [
        (["data.min_size=200", "data.max_size=300"], "images-enlarged", {"data.min_size": 40, "data.max_size": 60}),
        (
            ["backbone.norm=group", "data.min_size=20", "data.max_size=30"],
            "objects-small",
            {"data.min_size": 40, "data.max_size": 60},
        ),
        (
            [
                "data.min_size=200",
                "data.max_size=300",
                "augmentation.min_sizes=[160,200]",
                "augmentation.start_scale=0.5",
            ],
            "images-enlarged",  # not 40: the first images would have 16 pixels, one value a channel for batch norms
            {"data.min_size": 83, "data.max_size": 83, "augmentation.min_sizes": [66, 83]},
        ),
        (
            ["data.min_size=200", "data.max_size=300", "augmentation.min_sizes=[180,220,200]"],
            "images-enlarged",
            {"data.min_size": 40, "data.max_size": 60, "augmentation.min_sizes": [36, 44, 40]},
        ),
        (
            [
                "backbone.norm=group",
                "augmentation.min_sizes=[16,20,24]",
            ],  # at data.min_size=40 they would be large enough
            "objects-small",
            {"data.min_size": 40, "data.max_size": 60, "augmentation.min_sizes": [32, 40, 48]},
        ),
        (["rpn.sampling.batch_size=2"], "rpn-sampling", {"rpn.sampling.batch_size": 100}),
        (["roi_head.sampling.batch_size=4"], "roi-sampling", {"roi_head.sampling.batch_size": 200}),
        (["rpn.nms.post_test=1"], "proposals-too-few", {"rpn.nms.post_test": 100}),
        (
            ["data.min_size=80", "data.max_size=120", "mask_head.pooler.resolution=1"],
            "masks-coarse",
            {"mask_head.pooler.resolution": 2},
        ),
        (["schedule.warmup_steps=5000"], "warmup-long", {"schedule.warmup_steps": 14}),
        (["trainer.batch_size=99"], "batch-large", {"trainer.batch_size": 24}),
        (
            ["trainer.batch_size=199", "data.tile.size=32", "data.tile.empty_share=1"],
            "batch-large",
            {"trainer.batch_size": 144},
        ),
        (["trainer.batch_size=1"], "norm-of-one", {"backbone.norm": "group"}),
        (["optimizer=adamw", "optimizer.lr=0.1"], "learning-rate-high", {"optimizer.lr": 0.0005}),
        (["optimizer.lr=0.1"], "learning-rate-high", {"optimizer.lr": 0.02}),
        (["optimizer.lr=0.02", "optimizer.scale_lr=false"], "learning-rate-high", {"optimizer.lr": 0.0025}),
    ],
)
def test_a_setting_that_does_not_fit_the_data_is_found_and_answered(
    settings: list[str], usual: set[str], change: list[str], kind: str, advised: dict[str, object]
) -> None:
    assert kind not in usual
    assert kinds([*settings, *change])[kind].override == advised
    answers = [f"{key}={value}" for key, value in advised.items()]
    assert kind not in kinds([*settings, *change, *answers])


def test_more_steps_than_the_epochs_have_are_told(settings: list[str]) -> None:
    found = kinds([*settings, "trainer.epochs=2", "trainer.max_steps=37", "trainer.batch_size=4"])  # of 24 images
    assert found["steps-unreached"].what == "trainer.max_steps=37 is not reached: trainer.epochs=2 has 12 steps"
    assert found["steps-unreached"].fix == "trainer.epochs=7 to train that long"
    for enough in ("trainer.epochs=7", "trainer.max_steps=12", "trainer.max_steps=null"):
        changed = ["trainer.epochs=2", "trainer.max_steps=37", "trainer.batch_size=4", enough]
        assert "steps-unreached" not in kinds([*settings, *changed])


def test_anchors_are_not_advised_for_a_size_that_will_change(settings: list[str]) -> None:
    found = kinds(
        [
            *settings,
            "backbone.norm=group",
            "data.min_size=20",
            "data.max_size=30",
            "rpn.anchors.sizes=[64,128,256,512,999]",
        ]
    )
    assert found["anchors-better"].override == {}
    assert "data.min_size" in found["objects-small"].override


def test_objects_and_numbers_are_those_of_tiles(settings: list[str]) -> None:
    tiled = [*settings, "data.tile.size=32", "data.tile.overlap=0", "rpn.nms.post_test=1"]
    found = kinds([*tiled, "data.tile.min_visible=1"])
    assert len(found["tiles-too-small"].items) == 14
    assert "tiles-too-small" not in kinds([*tiled, "data.tile.min_visible=0.2"])
    assert "proposals-too-few" not in found  # a tile shows one object


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        ([], 9),
        (["data.keep_empty=false"], 8),
        (["data.repeat_threshold=1"], 11),  # sqrt(9) = 3 times image 2
        (["data.keep_empty=false", "data.repeat_threshold=1"], 10),
    ],
)
def test_the_length_of_an_epoch_is_known_without_a_loader(
    overrides: list[str], length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(tmp_path / "cache"))
    coco = small_coco(9)
    of_doors = [item for item in coco["annotations"] if item["category_id"] == 3 and item["image_id"] != 9]
    coco["annotations"] = [*of_doors, *(item for item in coco["annotations"] if item["id"] == 4)]
    roboflow(tmp_path / "data", coco)
    config = load_config(["data=roboflow", f"data.root={tmp_path}/data", *overrides])
    batches = build_loaders(config).train.batch_sampler
    assert isinstance(batches, EpochBatchSampler)
    assert epoch_length(read_splits(config).train, config.data) == batches.num_images == length


def test_sizes_are_those_of_the_loader() -> None:
    sizes = np.random.default_rng(0).integers(1, 4000, (500, 2))
    expected = [resized_size((height, width), 800, 1333) for height, width in sizes.tolist()]
    assert resized_sizes(sizes, 800, 1333)[0].tolist() == [list(size) for size in expected]


def test_the_most_severe_finding_decides_a_key() -> None:
    findings = [
        Finding("advice", "a", "a", override={"x.y": 1, "z": 5}),
        Finding("error", "b", "b", override={"x.y": 2}),
    ]
    assert combined(findings) == {"x.y": 2, "z": 5}


def test_the_table_fits_the_terminal_and_says_it_all() -> None:
    override = {"rpn.anchors.sizes": [8.0, 16.5], "data.keep_empty": False}
    finding = Finding("warning", "k", "what was [found]", "train", "annotation", [3, 4, 5, 6], override, "look at it")
    text = findings_table([finding], width=120)
    assert max(map(len, text.splitlines())) <= 120
    for part in (
        "warning",
        "train",
        "what was [found]",
        "annotation 3, 4, 5, ...",
        "[8,16.5]",
        "data.keep_empty=false",
    ):
        assert part in text


def test_long_file_names_are_shortened_in_the_table_only() -> None:
    name = "20230417_200705_767_R_scaled_0_png_jpg.rf.08da2808b5d6a51f6a71ff1f50207508.jpg"
    finding = Finding("error", "k", "w", "", "pair", [f"{name} = b.jpg"])
    assert finding.examples == "pair 20230417_200705_767_R_sc...f50207508.jpg = b.jpg"
    assert finding.to_plain()["items"] == [f"{name} = b.jpg"]
