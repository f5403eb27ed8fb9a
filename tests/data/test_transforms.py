from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from maskrcnn_train.data.coco.masks import decode_counts, polygon_crop
from maskrcnn_train.data.transforms import Geometry, Transform, build_transform, resized_size
from maskrcnn_train.settings.compose import default_config


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1024, 1024), (800, 800)), ((480, 640), (800, 1066)), ((600, 1200), (666, 1333)), ((1, 4000), (1, 1333))],
)
def test_the_shorter_side_is_fitted_unless_the_longer_is_too_long(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized_size(size, 800, 1333) == expected
    assert resized_size(size[::-1], 800, 1333) == expected[::-1]


def geometries() -> list[Geometry]:
    size = (40, 60)
    return [
        Geometry(size, (80, 120), (80, 120)),
        Geometry(size, (40, 60), (40, 60), mirror_x=True),
        Geometry(size, (40, 60), (40, 60), mirror_y=True),
        Geometry(size, (80, 120), (40, 60), (13, 37), mirror_x=True, mirror_y=True),
        Geometry(size, (20, 30), (40, 60), mirror_x=True),
    ]


@pytest.mark.parametrize("geometry", geometries())
def test_pixels_points_and_boxes_move_together(geometry: Geometry) -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[6:18, 8:30] = 255
    window = geometry.window(geometry.resize(Image.fromarray(pixels)), (0, 0, 0))
    assert window.shape == (*geometry.size, 3)
    box = geometry.boxes(np.array([[8.0, 6, 30, 18]]))[0]
    rows, columns = np.nonzero(window[..., 0] > 127)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_array_equal(found, box)


def test_padding_is_filled() -> None:
    geometry = Geometry((40, 60), (20, 30), (40, 60))
    window = geometry.window(geometry.resize(Image.new("RGB", (60, 40))), (1, 2, 3))
    assert window[30, 50].tolist() == [1, 2, 3]
    assert window[19, 29].tolist() == [0, 0, 0]


def test_without_a_generator_nothing_is_random() -> None:
    transform = Transform(min_sizes=(20,), max_size=100, horizontal_flip=1.0, scale_jitter=(0.1, 2.0), color_jitter=1.0)
    assert transform.geometry((40, 60), None) == Geometry((40, 60), (20, 30), (20, 30))
    image = Image.new("RGB", (4, 4), (10, 200, 30))
    assert transform.colors(image, None) is image


def test_every_option_changes_what_is_drawn() -> None:
    def drawn(**options: object) -> list[Geometry]:
        transform = Transform(**{"min_sizes": (20,), "max_size": 100, **options})  # type: ignore[arg-type]
        return [transform.geometry((40, 60), np.random.default_rng(seed)) for seed in range(40)]

    assert len(set(drawn())) == 1
    assert {g.mirror_x for g in drawn(horizontal_flip=0.5)} == {True, False}
    assert {g.mirror_y for g in drawn(vertical_flip=0.5)} == {True, False}
    assert {g.size[0] for g in drawn(min_sizes=(20, 30, 40))} == {20, 30, 40}
    jittered = drawn(scale_jitter=(0.1, 2.0))
    assert {g.size for g in jittered} == {(20, 30)}
    assert min(g.scaled[0] for g in jittered) < 10
    assert max(g.scaled[0] for g in jittered) > 30
    assert any(g.corner != (0, 0) for g in jittered)


def test_color_jitter_changes_colours_and_keeps_the_size() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    transform = Transform(min_sizes=(20,), max_size=100, color_jitter=0.8)
    first = transform.colors(image, np.random.default_rng(1))
    again = transform.colors(image, np.random.default_rng(1))
    assert first.size == image.size
    assert np.array(first).tolist() == np.array(again).tolist() != np.array(image).tolist()


def test_brightness_contrast_and_saturation_change_by_half_the_strength_and_hue_by_a_tenth() -> None:
    transform = Transform(min_sizes=(20,), max_size=100, color_jitter=0.5)
    grey = Image.fromarray(np.repeat([[[50] * 3, [150] * 3]], 8, axis=0).astype(np.uint8))
    red = Image.new("RGB", (8, 8), (120, 80, 80))
    found = []
    for seed in range(60):
        dark, light = np.array(transform.colors(grey, np.random.default_rng(seed)))[0, :, 0].astype(float)
        color = transform.colors(red, np.random.default_rng(seed))
        spread = np.ptp(np.array(color)[0, 0].astype(float))
        hue = (color.convert("HSV").getpixel((0, 0))[0] + 128) % 256 - 128
        brightness, contrast = (light + dark) / 200, (light - dark) / (light + dark) * 2
        found.append((brightness, contrast, spread / (40 * brightness * contrast), 1 + hue / 51))
    low, high = np.min(found, axis=0), np.max(found, axis=0)
    np.testing.assert_allclose(low, 0.75, atol=0.1)
    np.testing.assert_allclose(high, 1.25, atol=0.1)


def turned() -> list[Geometry]:
    size = (40, 60)
    return [
        Geometry(size, (80, 120), (80, 120), angle=8.0),
        Geometry(size, (80, 120), (80, 120), angle=-30.0, mirror_x=True),
        Geometry(size, (80, 120), (50, 70), (13, 37), mirror_y=True, angle=5.0),
        Geometry(size, (60, 90), (80, 120), angle=90.0),
    ]


@pytest.mark.parametrize("geometry", turned())
def test_pixels_and_points_turn_together(geometry: Geometry) -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[12:26, 22:40] = 255
    window = geometry.window(geometry.resize(Image.fromarray(pixels)), (9, 9, 9))
    assert window.shape == (*geometry.size, 3)
    corners = geometry.points(np.array([22.0, 12, 40, 12, 40, 26, 22, 26]))
    drawn = polygon_crop([corners], geometry.visible, (0, 0, geometry.visible[1], geometry.visible[0]))
    bright = window[: geometry.visible[0], : geometry.visible[1], 0] > 127
    assert bright.sum() > 200
    assert (bright != drawn).sum() <= 0.08 * bright.sum() + 8  # a pixel along the outline


@pytest.mark.parametrize("geometry", [*geometries(), *turned()])
def test_runs_and_polygons_move_together(geometry: Geometry) -> None:
    rows, columns = np.mgrid[0:40, 0:60]
    bitmap = np.asfortranarray((abs(rows - 19.5) < 8) & (abs(columns - 30.5) < 10)).astype(np.uint8)
    runs = decode_counts(coco_mask.encode(np.asfortranarray(bitmap))["counts"])
    assert runs is not None
    whole = (0, 0, geometry.visible[1], geometry.visible[0])
    y0, x0 = np.argwhere(bitmap).min(axis=0)
    y1, x1 = np.argwhere(bitmap).max(axis=0) + 1
    corners = geometry.points(np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64))
    drawn = polygon_crop([corners], geometry.visible, whole)
    found = geometry.runs_crop(runs.astype(np.uint32), whole)
    assert found.shape == drawn.shape
    assert (found != drawn).sum() <= 0.08 * drawn.sum() + 8
    part = (whole[2] // 4, whole[3] // 4, whole[2] * 3 // 4, whole[3] * 3 // 4)
    cut = geometry.runs_crop(runs.astype(np.uint32), part)
    assert (cut != found[part[1] : part[3], part[0] : part[2]]).sum() <= 8


def test_smaller_images_have_all_their_sizes_smaller() -> None:
    transform = Transform(min_sizes=(20, 40), max_size=100)
    assert transform.scaled(50) == Transform(min_sizes=(10, 20), max_size=50)


@pytest.mark.parametrize(("bits", "fill"), [(8, (128, 0, 255)), (16, (32768, 0, 65535))])
def test_padding_has_the_mean_of_the_channels(bits: int, fill: tuple[int, ...]) -> None:
    data = replace(default_config().data, bits=bits)
    assert build_transform(data, None, [0.5, -1.0, 2.0]).fill == fill


def test_what_turns_into_the_picture_is_filled() -> None:
    geometry = Geometry((40, 60), (40, 60), (40, 60), angle=20.0)
    window = geometry.window(geometry.resize(Image.new("RGB", (60, 40), (200, 200, 200))), (1, 2, 3))
    assert window[0, 0].tolist() == [1, 2, 3]
    assert window[20, 30].tolist() == [200, 200, 200]


def test_strong_options_change_what_is_drawn() -> None:
    def drawn(**options: object) -> list[Geometry]:
        transform = Transform(**{"min_sizes": (20,), "max_size": 100, **options})  # type: ignore[arg-type]
        return [transform.geometry((40, 60), np.random.default_rng(seed)) for seed in range(60)]

    angles = [geometry.angle for geometry in drawn(rotation=10.0)]
    assert min(angles) < -5 < 5 < max(angles)
    assert max(map(abs, angles)) <= 10
    cropped = drawn(min_crop=0.5)
    assert len({geometry.size for geometry in cropped}) > 10  # each side has a share of its own
    for axis in (0, 1):
        assert any(0 < g.corner[axis] == g.scaled[axis] - g.size[axis] for g in cropped)
        assert any(0 == g.corner[axis] < g.scaled[axis] - g.size[axis] for g in cropped)
    shares = np.array([np.divide(g.size, g.scaled) for g in cropped])
    assert (shares > 0.45).all()
    assert shares.min() < 0.6
    assert shares.max() > 0.9
    for geometry in cropped:
        assert min(geometry.size) == 20 or max(geometry.size) == 100
        assert geometry.visible == geometry.size  # no padding
