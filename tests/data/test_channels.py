"""Images of other than three channels, and of 16 bits: what their files hold reaches the model, or is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from small_coco import Configure, small_coco, write_json

from maskrcnn_train.data.channels import ChannelImage
from maskrcnn_train.data.formats.pictures import picture_size
from maskrcnn_train.data.images import ImageError, WrongSize
from maskrcnn_train.data.loading import build_loaders
from maskrcnn_train.data.pixels import PixelReader, build_reader
from maskrcnn_train.data.scanning import find_similar, scan_images
from maskrcnn_train.data.sources import list_pictures
from maskrcnn_train.data.transforms import Geometry
from maskrcnn_train.settings.errors import UserError

SIZE = (20, 30)
SWAPPED = "data.picture_channels=[3,2,1]"


def reader(channels: int, bits: int = 8, *shown: int, contrast: str = "percentile") -> PixelReader:
    return PixelReader(channels=channels, bits=bits, picture_channels=shown or (1,), picture_contrast=contrast)


def noise(channels: int, bits: int = 8, size: tuple[int, int] = SIZE) -> np.ndarray:
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(0).integers(0, 2**bits, (*size, channels), dtype=kind)


def save(path: Path, values: np.ndarray, kind: str) -> Path:
    """values: [H, W, C]."""
    path, first = path / f"{kind}.tif", np.moveaxis(values, -1, 0)
    if kind == "array":
        np.save(path := path.with_suffix(".npy"), values)
    elif kind == "channels first":
        np.save(path := path.with_suffix(".npy"), first)
    elif kind == "samples":
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", compression="zlib")
    elif kind == "planes":
        tifffile.imwrite(path, first, photometric="minisblack", planarconfig="separate", byteorder=">")
    else:
        pages = [Image.fromarray(each) for each in first]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["array", "channels first", "samples", "planes", "pages"])
def test_every_kind_of_file_gives_all_values_of_all_channels(kind: str, bits: int, tmp_path: Path) -> None:
    values = noise(5, bits)
    path = save(tmp_path, values, kind)
    read = np.asarray(reader(5, bits).read(path, expected=SIZE))
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)
    assert picture_size(path) == SIZE


def test_the_samples_of_several_pages_are_channels_one_after_another(tmp_path: Path) -> None:
    values = noise(6)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in (values[..., :3], values[..., 3:]):
            file.write(page, photometric="rgb", contiguous=False)
    np.testing.assert_array_equal(np.asarray(reader(6).read(tmp_path / "a.tif", expected=SIZE)), values)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16"])
def test_a_picture_gives_its_bands(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(noise(1, 16)[..., 0]) if mode == "I;16" else Image.fromarray(noise(3)).convert(mode)
    picture.save(tmp_path / "a.png")
    bands = len(picture.getbands())
    read = np.asarray(reader(bands, 16).read(tmp_path / "a.png"))
    stored = np.asarray(picture.convert("L") if mode == "1" else picture).reshape(*SIZE, bands)
    np.testing.assert_array_equal(read, stored if mode == "I;16" else stored.astype(np.uint16) * 257)


def test_three_channels_of_8_bits_may_be_an_array_too(tmp_path: Path) -> None:
    image = reader(3).read(save(tmp_path, noise(3), "array"))
    assert isinstance(image, Image.Image)
    np.testing.assert_array_equal(np.asarray(image), noise(3))


def test_values_of_16_bits_are_rounded() -> None:
    image = ChannelImage.of(np.array([[[0], [3]]], np.uint16)).resize((1, 1), Image.Resampling.BOX)
    assert np.asarray(image).tolist() == [[[2]]]


@pytest.mark.parametrize("bits", [8, 16])
def test_channels_are_resized_mirrored_cut_and_turned_as_those_of_a_photograph(bits: int) -> None:
    values = noise(3, bits, (60, 90))
    fill = (10, 20, 30)
    for geometry in (
        Geometry((60, 90), (40, 60), (40, 60), mirror_x=True),
        Geometry((60, 90), (11, 13), (20, 20), mirror_y=True),
        Geometry((60, 90), (120, 180), (50, 70), (5, 9), mirror_x=True, angle=17.0),
    ):
        eight = Image.fromarray((values // 257 if bits == 16 else values).astype(np.uint8))
        expected = geometry.window(geometry.resize(eight), fill)
        scale = 257 if bits == 16 else 1
        given = ChannelImage.of((np.asarray(eight).astype(values.dtype) * scale).astype(values.dtype))
        found = geometry.window(geometry.resize(given), tuple(scale * each for each in fill))
        assert found.dtype == values.dtype
        assert np.abs(found / scale - expected).max() <= (0 if bits == 8 else 2)  # 8 bits are rounded at each step


@pytest.mark.parametrize(
    ("name", "values", "own", "said"),
    [
        ("a.npy", noise(4), (5, 8), "has 4 channels, but data.channels=5"),
        ("a.tif", noise(4), (5, 8), "has 4 channels, but data.channels=5"),
        ("a.png", noise(3), (1, 8), "has 3 channels, but data.channels=1"),
        ("a.npy", noise(5, 16), (5, 8), "has 16-bit pixels, but data.bits=8; set data.bits=16"),
        ("a.tif", noise(5).astype(np.float32), (5, 16), "has floating-point pixels"),
        ("a.npy", noise(5).astype(np.int16), (5, 16), "has int16 pixels; save it as uint8 or uint16"),
        ("a.npy", noise(5).astype(np.uint32), (5, 16), "has uint32 pixels"),
        ("a.npy", noise(20), (5, 8), r"the array is \[20, 30, 20\], neither \[H, W\]"),
        ("a.npy", np.array([{"a": 1}]), (5, 8), "cannot be read as an image"),
        ("a.npy", b"\x93NUMPY\x01", (5, 8), "cannot be read as an image"),
        ("a.tif", b"II*\0\xff\xff", (5, 8), "cannot be read as an image"),
        ("a.png", b"", (5, 8), "cannot be read as an image"),
    ],
)
def test_an_image_that_does_not_fit_is_one_line(
    name: str, values: Any, own: tuple[int, int], said: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if isinstance(values, bytes):
        path.write_bytes(values)
    elif name == "a.npy":
        np.save(path, values, allow_pickle=True)
    elif name == "a.tif":
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    else:
        Image.fromarray(values).save(path)
    with pytest.raises(ImageError, match=rf"{name} .*{said}") as caught:
        reader(*own).read(path)
    assert "\n" not in str(caught.value)


def test_a_tiff_that_needs_the_keys_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"samples\.tif cannot be read .*; if its channels are not R G B, set data\.ch"
    ):
        reader(3).read(save(tmp_path, noise(5), "samples"))


def test_colours_that_are_numbers_of_a_palette_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        Image.fromarray(noise(3)).convert("P").save(tmp_path / name)
        with pytest.raises(ImageError, match="palette"):
            reader(1).read(tmp_path / name)


def test_no_bit_of_a_16_bit_colour_png_is_lost_unnoticed(tmp_path: Path) -> None:
    import zlib

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in noise(3, 16))
    chunks = {b"IHDR": b"\0\0\0\x1e\0\0\0\x14\x10\x02\0\0\0", b"IDAT": zlib.compress(rows), b"IEND": b""}
    content = [
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks.items()
    ]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
    with pytest.raises(ImageError, match=r"16-bit colours, of which Pillow reads 8 bits; save it as TIFF or \.npy"):
        reader(3, 16).read(tmp_path / "a.png")


def test_another_size_and_too_many_pixels_are_named_before_they_are_decoded(tmp_path: Path) -> None:
    for kind in ("array", "samples"):
        path = save(tmp_path, noise(5), kind)
        with pytest.raises(WrongSize, match="has 30 x 20 pixels, but its JSON says 20 x 20"):
            reader(5).read(path, expected=(20, 20))
        with pytest.raises(ImageError, match="has 30 x 20 pixels, more than 599"):
            reader(5).read(path, max_pixels=599)


def test_a_tiff_that_lies_on_its_side_is_refused_and_its_small_copies_are_passed_over(tmp_path: Path) -> None:
    samples: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", noise(5), **samples, extratags=[(274, 3, 1, 6, True)])
    with pytest.raises(ImageError, match="lies on its side"):
        reader(5).read(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(noise(5), **samples)
        file.write(noise(5)[::2, ::2], **samples, subfiletype=1)
    np.testing.assert_array_equal(np.asarray(reader(5).read(tmp_path / "b.tif")), noise(5))


def test_pictures_show_the_chosen_channels_stretched_or_in_full_range() -> None:
    values = noise(5, 16) // 64 + 2000  # much darker than 16 bits allow
    image = ChannelImage.of(values)
    full = np.asarray(reader(5, 16, 4, 1, 2, contrast="full").show(image))
    np.testing.assert_array_equal(full, np.rint(values[..., [3, 0, 1]] / 257))
    stretched = np.asarray(reader(5, 16, 4, 1, 2).show(values))
    assert stretched.min() == 0
    assert stretched.max() == 255
    assert np.corrcoef(stretched[..., 0].ravel(), values[..., 3].ravel())[0, 1] > 0.99
    grey = np.asarray(reader(5, 16, 5).show(image))
    assert (grey[..., 0] == grey[..., 2]).all()
    assert np.corrcoef(grey[..., 0].ravel(), values[..., 4].ravel())[0, 1] > 0.99
    flat = reader(1, 8, 1).show(np.full((*SIZE, 1), 7, np.uint8))
    assert np.asarray(flat).max() == 0


def test_the_keys_say_what_a_picture_shows(configure: Configure) -> None:
    values = noise(3, 16)
    keys = ["data.bits=16", "data.picture_contrast=full"]
    usual, other = (np.asarray(build_reader(configure(*keys, *more).data).show(values)) for more in ([], [SWAPPED]))
    np.testing.assert_array_equal(usual, np.rint(values / 257))
    np.testing.assert_array_equal(other, usual[..., ::-1])
    stretched = build_reader(configure("data.bits=16").data).show(values // 2)
    assert np.asarray(stretched).max() == 255


def test_the_same_picture_is_found_in_files_of_different_kinds(tmp_path: Path) -> None:
    files = [save(tmp_path, noise(5, 16), kind) for kind in ("array", "pages")]
    np.save(tmp_path / "other.npy", noise(5, 16)[::-1, ::-1])
    sizes = [(path, SIZE) for path in (*files, tmp_path / "other.npy")]
    facts = scan_images(sizes, 1, lambda done, total: None, reader(5, 16, 1, 2, 3))
    assert find_similar(facts, 8).tolist() == [[0, 1]]
    shares = noise(5, 16) / 65535
    np.testing.assert_allclose(facts[0].means, shares.mean(axis=(0, 1)))
    np.testing.assert_allclose(facts[1].squares, (shares**2).mean(axis=(0, 1)))


def test_a_tiff_without_its_package_is_no_damaged_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, noise(5), "samples")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(
        UserError, match=r"samples\.tif needs the package tifffile; pip install 'maskrcnn-train\[tiff"
    ) as no:
        reader(5).read(path)
    assert not isinstance(no.value, ImageError)  # which data.on_bad_image=skip would pass over


def test_arrays_beside_pictures_are_no_images(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, noise(1))
    assert [path.name for path in list_pictures(tmp_path)] == ["a.npy", "b.npy"]
    Image.fromarray(noise(3)).save(tmp_path / "a.png")
    assert [path.name for path in list_pictures(tmp_path)] == ["a.png"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_holds_every_value_of_its_images(workers: int, tmp_path: Path, configure: Configure) -> None:
    coco = small_coco(2)
    for image in coco["images"]:
        image["file_name"] = f"{image['id']}.npy"
    stored = {image["id"]: noise(6, 16, (image["height"], image["width"])) for image in coco["images"]}
    for split in ("train", "valid"):
        write_json(tmp_path / "data" / split / "_annotations.coco.json", coco)
        for number, values in stored.items():
            np.save(tmp_path / "data" / split / f"{number}.npy", values)
    own = ["data.channels=6", "data.bits=16", "numerics.pixel_mean=[0,0,0,0,0,0]", "numerics.pixel_std=[1,1,1,1,1,1]"]
    own += ["data.min_size=40", "augmentation.color_jitter=1", "trainer.batch_size=2"]
    loaders = build_loaders(configure(*own, f"trainer.num_workers={workers}"))
    try:
        ((images, targets),) = list(loaders.train)
    finally:
        loaders.close()
    assert images.pixels.shape == (2, 6, 64, 64)
    assert images.pixels.dtype == torch.uint16
    for pixels, (height, width), target in zip(images.pixels, images.sizes, targets, strict=True):
        seen = pixels[:, :height, :width].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(seen, stored[target["image_id"]])
