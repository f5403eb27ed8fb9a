"""Training on tiles: what a tile shows, what it ignores, and how often it comes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from pycocotools import mask as coco_mask
from small_coco import Configure, annotation, roboflow, write_images

from maskrcnn_train.data.dataset import CocoDataset
from maskrcnn_train.data.loading import build_loaders, evaluation_loader
from maskrcnn_train.data.order import EpochBatchSampler
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.data.targets import build_target
from maskrcnn_train.data.tile_layout import epoch_length, lay_out
from maskrcnn_train.data.transforms import Geometry, Transform
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainTileConfig
from maskrcnn_train.structures.batch import MaskCrops, Target
from maskrcnn_train.structures.corners import common_part
from maskrcnn_train.structures.tiles import Tiles, is_last

SIZE = (120, 160)  # height, width
NATIVE = Transform(min_sizes=(50,), max_size=50)  # pixels of the tile as they are
AUGMENTED: dict[str, dict[str, Any]] = {
    "resized": {"min_sizes": (80,), "max_size": 80},
    "mirrored": {"horizontal_flip": 1.0, "vertical_flip": 1.0},
    "cropped": {"min_crop": 0.4, "horizontal_flip": 0.5},
    "jittered": {"scale_jitter": (0.3, 2.5), "vertical_flip": 0.5},
    "turned": {"rotation": 30.0, "horizontal_flip": 0.5},
}

# pycocotools 2.0.11 decodes with a numpy protocol of before 2.0
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def large_coco(num_images: int = 1) -> dict[str, Any]:
    """Images of 160 x 120 with a polygon, an RLE, an object that no tile of 50 pixels holds, and a crowd region."""
    images, annotations = [], []
    rows, columns = np.mgrid[0:120, 0:160]
    disc = coco_mask.encode(np.asfortranarray(((rows - 40) ** 2 + (columns - 42) ** 2 < 130).astype(np.uint8)))
    code = {"size": [120, 160], "counts": disc["counts"].decode()}
    for number in range(1, num_images + 1):
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
        first = len(annotations) + 1
        annotations.append(annotation(first, number, 3, 10, 10, 12))
        annotations.append(
            annotation(first + 1, number, 7, 0, 0, 1, segmentation=code, bbox=coco_mask.toBbox(disc).tolist())
        )
        annotations.append(annotation(first + 2, number, 7, 60, 50, 70))
        annotations.append(annotation(first + 3, number, 3, 140, 0, 20, iscrowd=1))
    categories = [{"id": 3, "name": "door"}, {"id": 7, "name": "window"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return roboflow(tmp_path / "data", large_coco())


def tiled(configure: Configure, transform: Transform = NATIVE, min_visible: float = 0.3) -> CocoDataset:
    tile = TrainTileConfig(size=50, overlap=0.2, min_visible=min_visible, empty_share=0.2)
    splits = read_splits(configure())
    return CocoDataset(split=splits.train, classes=splits.classes, transform=transform, tile=tile)


def dense(target: Target) -> np.ndarray:
    masks = target["masks"]
    assert isinstance(masks, MaskCrops)
    return masks.dense().numpy()


def whole_masks(data: CocoDataset) -> np.ndarray:
    """The masks of the single objects in the image: [3, 120, 160]."""
    codes = [each["segmentation"] for each in data.ground_truth()["annotations"] if not each["iscrowd"]]
    return np.stack([coco_mask.decode(code) for code in codes])


def test_a_tile_shows_its_part_of_pixels_masks_and_boxes(root: Path, configure: Configure) -> None:
    data = tiled(configure, min_visible=0)
    image = np.asarray(Image.open(root / "train/1.png"))
    whole = whole_masks(data)
    assert len(data) == 4 * 3
    windows = []
    for position in range(len(data)):
        pixels, target, size = data[position]
        (x0, y0, x1, y1), of = target["tile"]
        windows.append((x0, y0, x1, y1))
        assert (of, size) == (SIZE, (50, 50))
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), image[y0:y1, x0:x1])
        parts = whole[:, y0:y1, x0:x1]
        visible = parts[parts.any(axis=(1, 2))]
        np.testing.assert_array_equal(dense(target), visible)
        for box, mask in zip(target["boxes"].tolist(), visible, strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert "ignored" not in target
    assert windows == Tiles(50, 0.2).windows(SIZE)
    assert [is_last((window, SIZE)) for window in windows] == [False] * 11 + [True]


@pytest.mark.parametrize("min_visible", [0.0, 0.3, 1.0])
def test_what_a_tile_shows_too_little_of_is_ignored(root: Path, configure: Configure, min_visible: float) -> None:
    data = tiled(configure, min_visible=min_visible)
    boxes = np.array([[10, 10, 22, 22], [31, 29, 54, 52], [60, 50, 130, 120]])
    for position in range(len(data)):
        _, target, _ = data[position]
        window = np.array(target["tile"][0])
        corner = np.tile(window[:2], 2)
        parts = np.concatenate((np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])), axis=1)
        shares = np.clip(parts[:, 2:] - parts[:, :2], 0, None).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
        slivers = parts[(shares > 0) & (shares < min_visible)] - corner
        np.testing.assert_array_equal(target.get("ignored", torch.zeros(0, 4)).numpy(), slivers)
        assert len(target["boxes"]) == np.count_nonzero((shares > 0) & (shares >= min_visible))
        assert data.layout is not None
        assert data.layout.num_objects[position] == len(target["boxes"])


@pytest.mark.parametrize("name", AUGMENTED)
def test_an_augmented_tile_shows_nothing_from_beyond_its_border(root: Path, configure: Configure, name: str) -> None:
    """Masks fill their boxes, and where the tile's own pixels are not, no object is."""
    Image.fromarray(np.full((*SIZE, 3), 255, dtype=np.uint8)).save(root / "train/1.png")
    transform = Transform(**{"min_sizes": (50,), "max_size": 50, "fill": (0, 0, 0), **AUGMENTED[name]})
    data = tiled(configure, transform, min_visible=0.1)
    seen = 0
    for epoch, position in itertools.product(range(4), range(len(data))):
        pixels, target, _ = data[(epoch, position)]
        masks = dense(target)
        assert masks.shape[1:] == tuple(pixels.shape[1:])
        around = Image.fromarray(pixels[0].numpy()).filter(ImageFilter.MaxFilter(3))  # a turned edge is a pixel wide
        assert not masks[:, np.asarray(around) == 0].any()
        for mask, (x0, y0, x1, y1) in zip(masks, target["boxes"].tolist(), strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(extent, [x0, y0, x1, y1], atol=1.01)
        seen += len(masks)
    assert seen > 30


def test_a_box_fits_what_the_border_of_a_turned_tile_leaves(root: Path, configure: Configure) -> None:
    """Also where the part beyond the border is turned into the window."""
    coco = large_coco()
    coco["annotations"] = coco["annotations"][:1]
    coco["annotations"][0] |= {"segmentation": [[36, 16, 50, 2, 64, 16, 50, 30]], "bbox": [36, 2, 28, 28]}
    roboflow(root, coco)
    train = read_splits(configure()).train
    for x, angle in itertools.product((0, 37), range(-45, 46)):
        geometry = Geometry((50, 50), (150, 150), (150, 150), angle=angle, tile=((x, 0, x + 50, 50), SIZE))
        target = build_target(train.index, train.labels, 0, geometry, with_masks=True)
        ((x0, y0, x1, y1),), (mask,) = target["boxes"].tolist(), dense(target)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(extent, [x0, y0, x1, y1], atol=1.01)
        plain = build_target(train.index, train.labels, 0, geometry, with_masks=False)["boxes"].numpy()
        shown = geometry.boxes(np.array([[max(36.0, x), 2, min(64, x + 50), 30]])).astype(np.float32)
        np.testing.assert_array_equal(common_part(plain, shown), plain)  # nothing of it lies beyond the border


def test_without_masks_boxes_end_at_the_border_of_a_turned_tile(root: Path, configure: Configure) -> None:
    turned = Transform(min_sizes=(50,), max_size=50, rotation=30.0)
    splits, tile = read_splits(configure()), TrainTileConfig(size=50, overlap=0.2, min_visible=0.1, empty_share=0)
    plain, masked = (
        CocoDataset(split=splits.train, classes=splits.classes, transform=turned, tile=tile, with_masks=with_masks)
        for with_masks in (False, True)
    )
    for key in itertools.product(range(3), range(len(plain))):
        boxes, tight = plain[key][1]["boxes"], masked[key][1]["boxes"]
        if len(boxes) == len(tight):
            assert (boxes[:, :2] <= tight[:, :2] + 1).all()
            assert (boxes[:, 2:] >= tight[:, 2:] - 1).all()
            assert ((boxes[:, 2:] - boxes[:, :2]) <= 50 * 1.37).all()


def sampler_of(configure: Configure, *overrides: str) -> tuple[EpochBatchSampler, CocoDataset]:
    loader = build_loaders(configure("data.tile.size=50", "data.min_size=50", *overrides)).train
    assert isinstance(loader.batch_sampler, EpochBatchSampler)
    return loader.batch_sampler, loader.dataset


def epoch_of(sampler: EpochBatchSampler, epoch: int, start: int = 0) -> list[int]:
    sampler.set_epoch(epoch, start)
    return [key[1] for batch in sampler for key in batch]


@pytest.mark.parametrize(("share", "empty"), [(0, 0), (0.1, 2), (0.25, 6), (1, 6)])
def test_an_epoch_has_all_tiles_with_objects_and_a_share_of_the_empty(
    tmp_path: Path, configure: Configure, share: float, empty: int
) -> None:
    roboflow(tmp_path / "data", large_coco(2))
    config = configure("data.tile.size=50", "data.tile.min_visible=0.1", f"data.tile.empty_share={share}")
    sampler, data = sampler_of(configure, "data.tile.min_visible=0.1", f"data.tile.empty_share={share}")
    assert data.layout is not None
    full = np.flatnonzero(data.layout.num_objects)
    assert (len(full), len(data)) == (18, 24)
    epochs = [epoch_of(sampler, number) for number in range(8)]
    for drawn in epochs:
        assert len(set(drawn)) == len(drawn) == 18 + empty == epoch_length(read_splits(config).train, config.data)
        assert {*full.tolist()} <= {*drawn}
    if 0 < empty < 6:
        assert len({position for drawn in epochs for position in drawn}) == 24  # others in other epochs
    assert epoch_of(sampler, 3, 1) == epochs[3][sampler.batch_size :]


def test_rare_classes_are_counted_among_the_tiles_with_objects(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", large_coco(2))
    data = tiled(configure, min_visible=0.1)
    assert data.layout is not None
    door = data.layout.presence[:, 0]
    assert (door.sum(), len(door)) == (2, 18)
    repeats = data.repeats(0.5)
    assert repeats is not None
    shown = repeats[data.layout.num_objects > 0]
    np.testing.assert_allclose(shown[door], np.sqrt(0.5 / (2 / 18)))


def test_all_tiles_of_an_image_are_evaluated_by_one_process_in_order(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", large_coco(3))
    config = configure("data.tile.size=50", "data.min_size=50", "evaluation.batch_size=5")
    splits = read_splits(config)
    seen = []
    for rank in range(2):
        loader = build_loaders(config, rank=rank, world_size=2, splits=splits).val
        seen.append([(each["image_id"], each["tile"][0]) for _, targets in loader for each in targets])
    windows = Tiles(50, 0.2).windows(SIZE)
    assert seen == [[(image, window) for image in own for window in windows] for own in ((1, 3), (2,))]


def test_ignored_regions_travel_with_their_images(root: Path, configure: Configure) -> None:
    config = configure("data.tile.size=50", "data.min_size=50", "evaluation.batch_size=12")
    splits = read_splits(config)
    loader = evaluation_loader(config, splits.train, splits.classes)
    ((_, targets),) = list(loader)
    for position, target in enumerate(targets):
        alone = loader.dataset[position][1]
        assert ("ignored" in target) == ("ignored" in alone)
        torch.testing.assert_close(target.get("ignored"), alone.get("ignored"))
    assert 0 < sum("ignored" in target for target in targets) < 12


def test_small_images_are_whole_and_images_without_objects_can_be_left_out(
    tmp_path: Path, configure: Configure
) -> None:
    coco = large_coco(2)
    coco["annotations"] = [each for each in coco["annotations"] if each["image_id"] == 1]
    coco["images"][1] |= {"width": 40, "height": 30}
    roboflow(tmp_path / "data", coco)
    layout = lay_out(read_splits(configure()).train, configure("data.tile.size=50").data.tile)
    assert layout.windows[-1].tolist() == [0, 0, 40, 30]
    assert len(layout) == 13
    assert len(sampler_of(configure, "data.keep_empty=false")[1]) == 12


def test_tiles_that_show_too_little_of_everything_are_refused(root: Path, configure: Configure) -> None:
    coco = large_coco()
    coco["annotations"] = coco["annotations"][2:3]
    roboflow(root, coco)
    with pytest.raises(UserError, match=r"no tile shows data\.tile\.min_visible=0\.9 of an object; raise data\.tile"):
        build_loaders(configure("data.tile.size=50", "data.tile.min_visible=0.9"))


def test_an_image_is_decoded_once_for_tiles_in_a_row(
    root: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskrcnn_train.data import dataset, pixels

    write_images(root / "train", large_coco(3))
    roboflow(root, large_coco(3))
    decoded: list[str] = []
    decode = pixels.decode
    monkeypatch.setattr(pixels, "decode", lambda path, **size: decoded.append(path.name) or decode(path, **size))
    data = tiled(configure)
    for position in (*range(24), 0):
        data[position]
    assert decoded == ["1.png", "2.png"]
    monkeypatch.setattr(dataset, "KEPT_BYTES", 2 * 4 * 160 * 120)
    for position in (1, 24, 2, 12):  # 2.png goes for 3.png, which then goes for 2.png
        data[position]
    assert decoded[2:] == ["3.png", "2.png"]


def test_objects_are_pasted_from_tiles_that_show_some(root: Path, configure: Configure) -> None:
    data = tiled(configure, Transform(min_sizes=(50,), max_size=50, copy_paste=1.0), min_visible=0.1)
    assert all(len(data[(epoch, position)][1]["boxes"]) for epoch in range(3) for position in range(len(data)))
