"""The pictures of a data set: where they are, what size they have, and copies of them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from maskrcnn_train.data.channels import NUMPY, TIFF, numpy_layout, tiff_size
from maskrcnn_train.data.coco.masks import MAX_PIXELS
from maskrcnn_train.data.coco.reader import MAX_SIDE
from maskrcnn_train.data.formats.labelled import LabelledImage
from maskrcnn_train.data.images import ORIENTATION, SIDEWAYS, ImageError, named_errors, opened
from maskrcnn_train.data.paths import visible_files
from maskrcnn_train.data.sources import SUFFIXES
from maskrcnn_train.files import unused_name
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Size

MASK_FOLDERS = ("masks", "instances", "labels", "annotations", "gt")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def picture_size(path: Path) -> Size:
    """(height, width) of a picture turned upright, from the head of its file. Raises ImageError naming the file."""
    kind = path.suffix.lower()
    if kind == NUMPY:
        with named_errors(str(path)):
            return numpy_layout(path)[1]
    try:
        with opened(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in SIDEWAYS and image.format != "TIFF"
            return (width, height) if turned else (height, width)
    except ImageError:
        if kind not in TIFF or not find_spec("tifffile"):
            raise
    with named_errors(str(path)):  # it may have more channels than Pillow reads
        return tiff_size(path)


def checked_size(height: Any, width: Any, place: str) -> Size:
    """(height, width) as a file of labels has them. Raises UserError unless they are pixels."""
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in (height, width)) or height * width >= MAX_PIXELS:
        raise UserError(f"{place} has size {width} x {height}; width and height must be pixels")
    return height, width


def given_size(height: Any, width: Any, picture: Path, place: str) -> Size:
    """`checked_size`, or that of the picture where the file of labels has none."""
    return picture_size(picture) if height is None or width is None else checked_size(height, width, place)


@contextmanager
def opened_mask(path: Path, size: Size) -> Iterator[Image.Image]:
    """A picture of labels. Raises UserError where it cannot be read, or has another size than its photograph."""
    with opened(path) as image:
        if image.size != size[::-1]:
            raise UserError(f"{path} has {image.width} x {image.height} pixels, its picture {size[1]} x {size[0]}")
        yield image


def is_file(path: Path) -> bool:
    """Also of a name that is too long for a file."""
    try:
        return path.is_file()
    except OSError:
        return False


def find_picture(stem: Path) -> Path | None:
    """The picture of this path without its ending."""
    for suffix in SUFFIXES:
        for each in (suffix, suffix.upper()):
            if is_file(path := stem.with_name(stem.name + each)):
                return path
    return None


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of a data set's parts, by the name of the part: train, val, test."""
    found: dict[str, Path] = {}
    for name, folders in SPLIT_FOLDERS.items():
        for folder in folders:
            if (root / folder).is_dir():
                found.setdefault(name, root / folder)
    return found


def split_name(text: str) -> str | None:
    """The part that a tool's name of it means: "Validation" is val."""
    return next((name for name, folders in SPLIT_FOLDERS.items() if text.lower() in folders), None)


def with_own_stems(
    images: Iterable[LabelledImage], used: dict[str, int] | None = None, prefix: str = ""
) -> Iterator[LabelledImage]:
    """The images of a folder for formats that pair images and labels by name, without the ending: some renamed.

    used: the names there so far; those of these images are added. prefix: of names that are used already.
    """
    used = {} if used is None else used
    for image in images:
        path = PurePosixPath(image.file_name)
        name = path.with_suffix("").as_posix()
        name = unused_name(f"{prefix}{name}" if name.casefold() in used else name, used)
        yield replace(image, file_name=name + path.suffix)


def find_mask_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """(pictures, PNGs) of each part: images/ and masks/ with train, val, test inside, or the other way round."""
    if not root.is_dir():
        return {}
    tops = split_folders(root)
    inside = split_folders(root / "images")
    found: dict[str, tuple[Path, Path]] = {}
    for name, top in (tops or {"train": root}).items():
        masks = next((top / each for each in MASK_FOLDERS if (top / each).is_dir()), None)
        if masks is not None and (top / "images").is_dir():
            found[name] = (top / "images", masks)
    if "train" in found and inside and not tops:
        masks = found["train"][1]
        found = {name: (folder, masks / folder.name) for name, folder in inside.items()}
    return {name: pair for name, pair in found.items() if any(visible_files(pair[1], "*.png"))}
