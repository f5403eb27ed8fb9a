from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrcnn_train.data.images import ImageError, decode
from maskrcnn_train.data.pixels import RGB


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 8, columns * 5, rows + columns], axis=2).astype(np.uint8)


def save(path: Path, array: Any, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def with_orientation(path: Path, orientation: int, array: np.ndarray) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, array, exif=exif)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(tmp_path: Path, orientation: int, name: str) -> None:
    from PIL import ImageOps

    path = with_orientation(tmp_path / name, orientation, gradient())
    with Image.open(path) as image:
        upright = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(np.array(decode(path)), upright)
    np.testing.assert_array_equal(np.array(ImageOps.exif_transpose(decode(path))), upright)  # it is done once for all
    np.testing.assert_array_equal(np.array(decode(path, expected=upright.shape[:2])), upright)


def test_annotations_drawn_on_the_raw_picture_keep_it_raw(tmp_path: Path) -> None:
    path = with_orientation(tmp_path / "a.png", 6, gradient())
    np.testing.assert_array_equal(np.array(decode(path, expected=(20, 30))), gradient())
    with pytest.raises(ImageError, match=r"a\.tif has 20 x 30 pixels, but its JSON says 30 x 20"):
        decode(with_orientation(tmp_path / "a.tif", 6, gradient()), expected=(20, 30))  # Pillow has turned it by then


def test_another_size_names_both(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\.png has 30 x 20 pixels, but its JSON says 50 x 40"):
        decode(save(tmp_path / "a.png", gradient()), expected=(40, 50))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "RGB"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    original = Image.fromarray(gradient()).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    original.save(path, **({"quality": 98} if mode == "CMYK" else {}))
    image = decode(path)
    assert (image.mode, image.size) == ("RGB", (30, 20))
    expected = np.array(original.convert("RGB")).astype(int)
    assert np.abs(np.array(image).astype(int) - expected).mean() < 3


def test_16_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    values = (np.arange(600, dtype=np.uint16).reshape(20, 30) * 109).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        pixels = np.array(decode(save(tmp_path / name, values)))
        np.testing.assert_array_equal(pixels[..., 0], np.round(values / 257).astype(np.uint8))


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="floating-point"):
        decode(save(tmp_path / "a.tif", gradient()[..., 0].astype(np.float32)))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    path = save(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=name):
        decode(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff"])
def test_garbage_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.jpg cannot be read"):
        decode(tmp_path / "a.jpg")


def test_a_picture_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", gradient())
    with pytest.raises(ImageError, match=r"30 x 20 pixels, more than 599; cut it into smaller files"):
        decode(path, max_pixels=599)
    assert decode(path, max_pixels=600).size == (30, 20)


@pytest.mark.parametrize("name", ["sixteen.png", "turned.jpg", "turned.tif", "palette.png", "alpha.png"])
def test_a_pillow_image_is_read_as_its_file(tmp_path: Path, name: str) -> None:
    path, picture = tmp_path / name, Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6
    if name == "sixteen.png":
        save(path, np.full((20, 30), 30_000, np.uint16))
    elif name == "palette.png":
        picture.convert("P").save(path, transparency=3)
    elif name == "alpha.png":
        picture.convert("RGBA").save(path)
    else:
        picture.save(path, exif=exif)
    with Image.open(path) as image:
        first, again = RGB.from_pillow(image), RGB.from_pillow(image)
    np.testing.assert_array_equal(np.array(first), np.array(decode(path)))
    np.testing.assert_array_equal(np.array(first), np.array(again))  # the person's own image stays as it is


def test_a_pillow_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Image.open(path) as image, pytest.raises(ImageError, match=r"a\.png cannot be read as an image"):
        RGB.from_pillow(image)
    with pytest.raises(ImageError, match="the F image of 30 x 20 pixels has floating-point"):
        RGB.from_pillow(Image.new("F", (30, 20)))


def test_a_large_jpeg_is_decoded_smaller_only_with_a_margin(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", np.zeros((400, 600, 3), dtype=np.uint8))
    assert decode(path, smallest=(100, 150)).size == (300, 200)
    assert decode(path, smallest=(150, 225)).size == (600, 400)
    turned, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (600, 400)).save(turned, exif=exif)
    assert decode(turned, smallest=(150, 100)).size == (200, 300)
