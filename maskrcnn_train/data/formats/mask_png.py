"""One PNG for each mask: masks/PICTURE/*.png, or masks/PICTURE_1.png, or as the Data Science Bowl of 2018 has them.

That is a folder for each picture, with images/ and masks/ in it. What follows a number in a name is the class:
`masks/photo/3_door.png`, `masks/photo_3_door.png`; without it the class is `object`.
"""

import re
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
from PIL import Image

from maskrcnn_train.data.formats.instance_png import ONLY_CLASS
from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles, LabelledImage, LabelledObject, Reader
from maskrcnn_train.data.formats.masks import filled_box, run_lengths
from maskrcnn_train.data.formats.pictures import (
    find_mask_folders,
    opened_mask,
    picture_size,
    split_folders,
    with_own_stems,
)
from maskrcnn_train.data.paths import visible_files
from maskrcnn_train.data.sources import list_pictures
from maskrcnn_train.data.texts import names_file, read_names, write_lines
from maskrcnn_train.files import write_picture
from maskrcnn_train.settings.errors import UserError

LONGEST_CLASS = 240  # characters, of which 255 may name a file; one that is no ASCII takes up to 12
NUMBERED = re.compile(r"(\d+)(?:_(.+))?")


def find(root: Path) -> dict[str, LabelFiles]:
    """The parts of a folder with images/ and masks/, or with such a pair in a folder for each picture."""
    parts = {name: LabelFiles("mask_png", *pair) for name, pair in find_mask_folders(root).items()}
    if parts or not root.is_dir():
        return parts
    folders = split_folders(root) or {"train": root}
    bowls = {name: folder for name, folder in folders.items() if any(folder.glob("*/masks/*.png"))}
    return {name: LabelFiles("mask_png", folder, folder) for name, folder in bowls.items()}


class MaskPngReader(Reader):
    """Reads the pictures of one part, and the PNGs that belong to each."""

    @cached_property
    def masks(self) -> dict[Path, list[tuple[Path, str]]]:
        """PNGs of each picture, with their classes."""
        pictures, masks = list_pictures(self.files.images), self.files.annotations
        if masks == self.files.images:  # a bowl
            pictures = [each for each in pictures if each.parent.name == "images"]
            found = {each: sorted(visible_files(each.parent.parent / "masks", "*.png")) for each in pictures}
            return {each: [(path, _class(path.stem)) for path in own] for each, own in found.items()}
        stems = {each.relative_to(self.files.images).with_suffix("").as_posix(): each for each in pictures}
        owned: dict[Path, list[tuple[Path, str]]] = {each: [] for each in pictures}
        for path in sorted(visible_files(masks, "*.png")):
            stem, folder = path.relative_to(masks).with_suffix("").as_posix(), path.parent.relative_to(masks).as_posix()
            if folder in stems:
                owned[stems[folder]].append((path, _class(path.stem)))
            elif ends := [each.start() for each in re.finditer(r"_(?=\d)", stem) if stem[: each.start()] in stems]:
                owned[stems[stem[: ends[-1]]]].append((path, _class(stem[ends[-1] + 1 :])))
        return owned

    @cached_property
    def classes(self) -> dict[int, str] | None:
        return read_names(self.files.annotations)

    def depends(self) -> list[Path]:
        paths = [path for picture, own in self.masks.items() for path in (picture, *(each for each, _ in own))]
        return [*paths, *filter(None, [names_file(self.files.annotations)])]

    def strays(self) -> list[Path]:
        if self.files.annotations == self.files.images:  # a bowl
            return []
        used = {path for own in self.masks.values() for path, _ in own}
        return [path for path in list_pictures(self.files.annotations) if path not in used]

    def items(self) -> list[Path]:
        if not any(self.masks.values()):
            raise UserError(f"{self.files.annotations} holds no PNG with the name of a picture in {self.files.images}")
        return list(self.masks)

    def read(self, picture: Path) -> LabelledImage:
        size = picture_size(picture)
        image = LabelledImage(picture.relative_to(self.files.images).as_posix(), size)
        for path, name in self.masks[picture]:
            with opened_mask(path, size) as mask:
                box = mask.getbbox()  # of what is not black, or transparent
                crop = mask if box is None else mask.crop(box)
                # a pixel of the object is neither black nor transparent
                pixels = np.asarray(crop if crop.mode.startswith("I") else crop.convert("LA"))
                bitmap = pixels if pixels.ndim == 2 else pixels.min(axis=2)
            if self.classes is not None and name not in self.classes.values():
                raise UserError(f"{path} is of class {name!r}, which classes.txt does not name")
            code = run_lengths((bitmap > 0).astype(np.uint8), *(box or (0, 0))[:2], size)
            image.objects.append(LabelledObject(name, code, place=str(path)))
        return image


def _class(stem: str) -> str:
    match = NUMBERED.fullmatch(stem)
    return unquote(match[2]) if match and match[2] else ONLY_CLASS


def write(folder: Path, data: DataSet, *, tolerance: float) -> None:
    """images/, masks/PICTURE/NUMBER_CLASS.png and classes.txt.

    Raises UserError for a class that is too long for a file's name.
    """
    classes = {name: quote(name, safe=" ()[]+,;=@'!&$") for name in data.names.values()}
    if long := [name for name, quoted in classes.items() if len(quoted) > LONGEST_CLASS]:
        raise UserError(f"the class {long[0]!r} is too long for the names of mask_png's files; rename it: data.rename")
    for part, images in data.parts.items():
        for image, _ in data.copied(with_own_stems(images), folder / "images" / part):
            own = (folder / "masks" / part / image.file_name).with_suffix("")
            for number, each in enumerate(image.objects, start=1):
                full = np.zeros(image.size, np.uint8)
                x0, y0, bitmap = filled_box(each, image.size)
                full[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]] = bitmap * 255
                write_picture(
                    own / f"{number:04d}_{classes[each.name]}.png", Image.fromarray(full).convert("1"), compress_level=1
                )
    write_lines(folder / "classes.txt", data.names.values())
