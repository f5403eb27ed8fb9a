"""One PNG of numbers for each picture: 0 is the background, every other number one object.

With a classes.txt (a name in each line) a number is 1000 times its class, counted from 1, plus the object's own, as
Cityscapes has it. Without, every object is of the class `object`.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles, LabelledImage, LabelledObject, Reader
from maskrcnn_train.data.formats.masks import instances, painted, run_lengths, tell_hidden
from maskrcnn_train.data.formats.pictures import find_mask_folders, opened_mask, picture_size, with_own_stems
from maskrcnn_train.data.paths import visible_files
from maskrcnn_train.data.sources import list_pictures
from maskrcnn_train.data.texts import names_file, read_names, write_lines
from maskrcnn_train.files import write_picture
from maskrcnn_train.settings.errors import UserError

CLASS_FACTOR = 1000
ONLY_CLASS = "object"
LARGEST = 2**16 - 1


def find(root: Path) -> dict[str, LabelFiles]:
    """The parts of a folder with pictures in images/ and PNGs of the same names in masks/."""
    return {
        name: LabelFiles("instance_png", images, masks)
        for name, (images, masks) in find_mask_folders(root).items()
        if _has_pairs(images, masks)
    }


def _has_pairs(images: Path, masks: Path) -> bool:
    stems = {path.relative_to(masks).with_suffix("") for path in visible_files(masks, "*.png")}
    return any(path.relative_to(images).with_suffix("") in stems for path in list_pictures(images))


class InstancePngReader(Reader):
    """Reads the pictures of one folder and the PNGs of another; a picture without one has no objects."""

    @cached_property
    def pictures(self) -> list[Path]:
        return list_pictures(self.files.images)

    @cached_property
    def classes(self) -> dict[int, str] | None:
        return read_names(self.files.annotations) or {1: ONLY_CLASS}

    @cached_property
    def _is_coded(self) -> bool:
        return read_names(self.files.annotations) is not None

    def _mask(self, picture: Path) -> Path:
        return (self.files.annotations / picture.relative_to(self.files.images)).with_suffix(".png")

    def depends(self) -> list[Path]:
        paths = [path for picture in self.pictures for path in (picture, self._mask(picture)) if path.is_file()]
        return [*paths, *filter(None, [names_file(self.files.annotations)])]

    def strays(self) -> list[Path]:
        used = {*map(self._mask, self.pictures)}
        return [path for path in list_pictures(self.files.annotations) if path not in used]

    def items(self) -> list[Path]:
        return self.pictures

    def read(self, picture: Path) -> LabelledImage:
        size, path = picture_size(picture), self._mask(picture)
        image = LabelledImage(picture.relative_to(self.files.images).as_posix(), size)
        if not path.is_file():
            return image
        with opened_mask(path, size) as mask:
            if mask.mode not in ("P", "L", "1") and not mask.mode.startswith("I"):
                raise UserError(f"{path} has colours ({mask.mode}); it should have one number for each pixel")
            ids = np.asarray(mask).astype(np.int64)
        for number, (x0, y0, bitmap) in instances(ids).items():
            place = f"{path} object {number}"
            category = number // CLASS_FACTOR if self._is_coded else 1
            name = (self.classes or {}).get(category)
            if name is None:
                raise UserError(f"{place} is of class {category}, which classes.txt does not name")
            image.objects.append(LabelledObject(name, run_lengths(bitmap, x0, y0, size), place=place))
        return image


def write(folder: Path, data: DataSet, *, tolerance: float) -> None:
    """images/, masks/ and classes.txt; later objects cover earlier ones.

    Raises UserError for more objects or classes than 16 bits hold.
    """
    for part, images in data.parts.items():
        for image, _ in data.copied(with_own_stems(images), folder / "images" / part):
            ids, counts = np.zeros(image.size, np.int64), dict.fromkeys(data.names.values(), 0)
            for each, window, inside in painted(image):
                counts[each.name] += 1
                value = CLASS_FACTOR * (data.number(each.name) + 1) + counts[each.name] - 1
                if counts[each.name] > CLASS_FACTOR or value > LARGEST:
                    raise UserError(
                        f"{image.file_name}: 16 bits hold 65 classes and 1000 objects of each; use mask_png"
                    )
                ids[window][inside] = value
            tell_hidden(data, image, ids)
            path = (folder / "masks" / part / image.file_name).with_suffix(".png")
            write_picture(path, Image.fromarray(ids.astype(np.uint16)))
    write_lines(folder / "classes.txt", data.names.values())
