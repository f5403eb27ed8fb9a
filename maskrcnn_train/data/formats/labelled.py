"""What every format of labels is read into, and written from: images with objects of named classes."""

import shutil
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from maskrcnn_train.data.images import ORIENTATION, SIDEWAYS, ImageError, opened
from maskrcnn_train.files import written_aside
from maskrcnn_train.structures.arrays import Size

OTHER_SIZE = "pictures have another size than their labels say"


@dataclass
class LabelledObject:
    """One object in pixels of its image.

    segmentation: as in COCO, a list of polygons [x, y, x, y, ...] or run lengths {"size", "counts"}; None: only the box
    is known. box: x y width height; None: that of the segmentation. area: square pixels, None: those of the
    segmentation. place: where it is written, for messages.
    """

    name: str
    segmentation: Any = None
    box: list[float] | None = None
    crowd: bool = False
    score: float | None = None
    area: float | None = None
    place: str = ""


@dataclass
class LabelledImage:
    """One picture and its objects.

    file_name: relative to the folder of images. path: the picture on disk, for writers. unused: what is no object, or
    cannot be read as one, or is not used as it stands: (reason, place, whether it is left out) of each.
    """

    file_name: str
    size: Size
    objects: list[LabelledObject] = field(default_factory=list)
    unused: list[tuple[str, str, bool]] = field(default_factory=list)
    path: Path | None = None
    id: int | None = None

    def leave_out(self, reason: str, place: str) -> None:
        self.unused.append((reason, place, True))


@dataclass(frozen=True)
class LabelFiles:
    """The files of one part of a data set.

    format: a name in `registry.FORMATS`. images: the folder that file names are relative to. annotations: the file
    or folder with the labels. part: the name of the part in a file that holds several; None: all of it. note: what of
    the file is in no part, for people.
    """

    format: str
    images: Path
    annotations: Path
    part: str | None = None
    note: str = ""


@dataclass
class DataSet:
    """What a writer writes.

    names: class name of each category id. parts: images by name of the part, read once. copies: whether pictures are
    copied beside their labels. detected: the objects are a model's, for people to correct. remarks: what people should
    know of the written files, and the file name of each image, or of the image of each object, that it is about.
    """

    names: dict[int, str]
    parts: Mapping[str, Iterable[LabelledImage]]
    copies: bool = True
    detected: bool = False
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def number(self, name: str) -> int:
        """The place of a class in the order of the ids, from 0."""
        return list(self.names.values()).index(name)

    def copied(self, images: Iterable[LabelledImage], folder: Path) -> Iterator[tuple[LabelledImage, Path]]:
        """Each image with its place in a folder, to which its file is copied. A missing file is an OSError."""
        for image in images:
            picture = folder / image.file_name
            if self.copies and image.path is not None:
                with written_aside(picture) as aside:
                    if not _copy(image.path, aside, image.size):
                        self.remarks[OTHER_SIZE].append(image.file_name)
            yield image, picture


def _copy(picture: Path, to: Path, size: Size) -> bool:
    """Copy a picture; without metadata if its labels belong to it as stored, and others would turn it by its EXIF tag.

    size: (height, width) that the labels belong to; returns whether the picture has it. A picture that cannot be read
    is copied as it is.
    """
    fits = True
    try:
        with opened(picture) as image:
            is_stored, is_turned = size == image.size[::-1], image.getexif().get(ORIENTATION) in SIDEWAYS
            fits = is_stored or (is_turned and size == image.size)
            # Pillow itself turns a TIFF; one of equal sides is taken as upright, like everywhere
            if is_turned and is_stored and image.width != image.height and image.format != "TIFF":
                _copy_bare(picture, image, to)
                return True
    except ImageError:
        pass
    shutil.copyfile(picture, to)
    return fits


def _copy_bare(picture: Path, image: Image.Image, to: Path) -> None:
    """Copy an opened picture without its metadata."""
    if (segments := getattr(image, "applist", None)) is None:
        image.info = {}
        image.save(to, format=image.format, lossless=True)
        return
    content = picture.read_bytes()  # of a JPEG: its pixels stay as they are
    for data in (data for name, data in segments if name == "APP1"):  # EXIF, XMP
        content = content.replace(b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data, b"", 1)
    to.write_bytes(content)


class Reader(ABC):
    """Reads one part of a data set, an image at a time."""

    def __init__(self, files: LabelFiles) -> None:
        self.files = files

    @property
    def classes(self) -> dict[int, str] | None:
        """Name of each category id that the files declare; None: the names of the objects, numbered from 1."""
        return None

    def depends(self) -> list[Path]:
        """Every file that the labels are read from."""
        return [self.files.annotations]

    def strays(self) -> list[Path]:
        """Files of labels that belong to no picture."""
        return []

    @abstractmethod
    def items(self) -> Iterable[Any]:
        """What `read` takes, one for each image, sorted by file name. Raises UserError for a fault of a whole file."""

    @abstractmethod
    def read(self, item: Any) -> LabelledImage:
        """Raises UserError, in one line that names the file, where the image or its labels cannot be read."""
