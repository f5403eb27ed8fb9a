"""Pascal VOC with SegmentationObject: a PNG with a colour for each object, and one with a colour for each class.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc. Black is the background, the last colour the borders, which
belong to no object. Classes are those of labelmap.txt (CVAT and Datumaro write it) or the 20 of VOC. Without
SegmentationClass the n-th object is the n-th of the XML in Annotations. Pictures without masks give boxes.
"""

import re
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles, LabelledImage, LabelledObject, Reader
from maskrcnn_train.data.formats.masks import instances, painted, run_lengths, tell_hidden
from maskrcnn_train.data.formats.pictures import find_picture, opened_mask, picture_size, split_name, with_own_stems
from maskrcnn_train.data.paths import visible_files
from maskrcnn_train.data.texts import read_lines, write_lines
from maskrcnn_train.files import write_picture
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Bytes, Ints, Size

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
BORDER = 255  # index of pixels that belong to no object
FLAGGED = re.compile(r"(.+?)\s+(-?1|0)")  # lists of Main that are about a class: there or not, or hard to see
FOLDERS = ("SegmentationObject", "SegmentationClass", "JPEGImages", "Annotations")


def find(root: Path) -> dict[str, LabelFiles]:
    """The parts of a folder with SegmentationObject: by the lists of ImageSets, else all of it."""
    tops = [root, *sorted(root.glob("VOCdevkit/VOC*"))] if root.is_dir() else []
    top = next((each for each in tops if (each / FOLDERS[0]).is_dir()), None)
    if top is None:
        return {}
    lists = [path for kind in ("Segmentation", "Main") for path in sorted((top / "ImageSets" / kind).glob("*.txt"))]
    parts: dict[str, LabelFiles] = {}
    for path in lists:
        if (name := split_name(path.stem)) is not None:
            parts.setdefault(name, LabelFiles("voc", top / "JPEGImages", path))
    return parts or {"train": LabelFiles("voc", top / "JPEGImages", lists[0] if lists else top / FOLDERS[0])}


def palette() -> Bytes:
    """VOC's colours: uint8 [256, 3]. Bits of the index from the lowest go to R, G, B from the highest."""
    index, colors = np.arange(256), np.zeros((256, 3), np.int64)
    for shift in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * shift + channel)) & 1) << (7 - shift)
    return colors.astype(np.uint8)


class VocReader(Reader):
    """Reads the pictures of one list."""

    def __init__(self, files: LabelFiles) -> None:
        super().__init__(files)
        self.top = files.images.parent
        self.table = np.zeros(2**24, np.uint8)  # index of each colour r * 65536 + g * 256 + b
        self.table[_packed(palette())] = np.arange(256)

    @cached_property
    def labelmap(self) -> list[tuple[str, int | None]]:
        """Names by index, with their colours; without a labelmap.txt those of VOC."""
        path = self.top / "labelmap.txt"
        if not path.is_file():
            return [("background", None), *((name, None) for name in CLASSES)]
        found: list[tuple[str, int | None]] = []
        for number, line in enumerate(read_lines(path), start=1):
            if line and not line.startswith("#"):
                name, _, rest = line.partition(":")
                try:
                    colors = [int(text) for text in rest.split(":")[0].split(",")] if rest.split(":")[0] else []
                except ValueError:
                    colors = [-1]
                if len(colors) not in (0, 3) or not all(0 <= value < 256 for value in colors):
                    raise UserError(f"{path} line {number}: {line!r} is not name:red,green,blue:parts:actions")
                found.append((name, colors[0] * 65536 + colors[1] * 256 + colors[2] if colors else None))
        return found

    @cached_property
    def classes(self) -> dict[int, str] | None:
        named = [*enumerate(name for name, _ in self.labelmap)]
        return {number: name for number, name in named if number and name != "background"}

    @cached_property
    def names(self) -> list[str]:
        """The pictures' names without an ending."""
        path = self.files.annotations
        if path.is_dir():
            return sorted(each.relative_to(path).with_suffix("").as_posix() for each in visible_files(path, "*.png"))
        found = [line for line in read_lines(path) if line]
        flagged = [FLAGGED.fullmatch(line) for line in found] if path.parent.name == "Main" else []
        pairs = [match.groups() for match in flagged if match is not None]
        if len(pairs) == len(found):  # of a class: in a list of all pictures, a name may end with a number
            found = [name for name, flag in pairs if flag != "-1"]
        if not found:
            raise UserError(f"{path} names no pictures")
        return sorted({name.strip('"') for name in found})  # Datumaro quotes names with spaces

    def _path(self, folder: str, name: str, suffix: str = ".png") -> Path:
        return self.top / folder / f"{name}{suffix}"

    def depends(self) -> list[Path]:
        found = [self._path(folder, name) for name in self.names for folder in FOLDERS[:2]]
        found += [self._path("Annotations", name, ".xml") for name in self.names]
        found += [path for name in self.names if (path := find_picture(self.files.images / name)) is not None]
        fixed = [self.files.annotations, self.top / "labelmap.txt"]
        return [path for path in [*fixed, *found] if path.is_file()]

    def items(self) -> list[str]:
        return self.names

    def read(self, name: str) -> LabelledImage:
        picture = find_picture(self.files.images / name)
        if picture is None:
            raise UserError(f"{self.files.annotations} names {name}, which has no picture in {self.files.images}")
        size, path = picture_size(picture), self._path("SegmentationObject", name)
        image = LabelledImage(picture.relative_to(self.files.images).as_posix(), size)
        listed = self._listed(name)
        if not path.is_file():
            image.objects = listed
            if not self._path("Annotations", name, ".xml").is_file():
                image.unused.append(("neither mask nor XML: taken as without objects", str(path), False))
            return image
        ids, kinds_path = self._objects(path, size), self._path("SegmentationClass", name)
        kinds = self._classes_of(kinds_path, size) if kinds_path.is_file() else None
        for number, (x0, y0, bitmap) in instances(ids).items():
            place = f"{path} object {number}"
            if kinds is not None:
                found = kinds[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]][bitmap > 0]
                found = found[found > 0]
                if not len(found):
                    image.leave_out("object without a class", place)
                    continue
                label = (self.classes or {}).get(int(np.bincount(found).argmax()))
            else:
                label = listed[number - 1].name if number <= len(listed) else None
            if label is None:
                raise UserError(f"{place} has a class that neither labelmap.txt nor the XML names")
            image.objects.append(LabelledObject(label, run_lengths(bitmap, x0, y0, size), place=place))
        return image

    def _objects(self, path: Path, size: Size) -> Ints:
        """The number of each pixel's object, 0 for none."""
        with opened_mask(path, size) as image:
            if _is_indexed(image):
                indices = np.asarray(image).astype(np.int64)
                wide = indices.max(initial=0) > BORDER  # of 16 bits: 255 is an object like any other
                return indices if wide else np.where(indices == BORDER, 0, indices)
            colors = _packed(np.asarray(image.convert("RGB")))
        indices = self.table[colors].astype(np.int64)
        if (_packed(palette())[indices] == colors).all():
            return np.where(indices == BORDER, 0, indices)
        _, numbers = np.unique(np.append(colors, 0), return_inverse=True)  # any colours: numbered in their order
        return np.asarray(numbers[:-1].reshape(size))

    def _classes_of(self, path: Path, size: Size) -> Ints:
        """The number of each pixel's class: by the colours of labelmap.txt, else by its index; 0 for none."""
        with opened_mask(path, size) as image:
            colors = _packed(np.asarray(image.convert("RGB")))
            found = np.asarray(image).astype(np.int64) if _is_indexed(image) else self.table[colors].astype(np.int64)
        for number, (_, color) in enumerate(self.labelmap):
            found = found if color is None else np.where(colors == color, number, found)
        return np.where(found == BORDER, 0, found)

    def _listed(self, name: str) -> list[LabelledObject]:
        """The objects of the XML with their boxes, whose pixels count from 1."""
        path = self._path("Annotations", name, ".xml")
        if not path.is_file():
            return []
        found = []
        try:
            for number, each in enumerate(ElementTree.parse(path).getroot().iterfind("object"), start=1):
                x0, y0, x1, y1 = (
                    float(each.findtext(f"bndbox/{key}", "nan")) for key in ("xmin", "ymin", "xmax", "ymax")
                )
                label = (each.findtext("name") or "").strip()
                box = [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]
                found.append(LabelledObject(label, box=box, place=f"{path} object {number}"))
        except (ElementTree.ParseError, UnicodeError, ValueError, OSError) as error:
            raise UserError(f"{path} line {getattr(error, 'position', (1, 0))[0]} cannot be read: {error}") from None
        unknown = next((each for each in found if each.name not in (self.classes or {}).values()), None)
        if unknown is not None:
            raise UserError(f"{unknown.place} has class {unknown.name!r}, which labelmap.txt does not name")
        return found


def _is_indexed(image: Image.Image) -> bool:
    return image.mode in ("P", "L", "1") or image.mode.startswith("I")


def _packed(colors: Ints | Bytes) -> Ints:
    """Colours [..., 3] as numbers r * 65536 + g * 256 + b."""
    wide = colors.astype(np.int64)
    return np.asarray(wide[..., 0] * 65536 + wide[..., 1] * 256 + wide[..., 2])


def write(folder: Path, data: DataSet, *, tolerance: float) -> None:
    """JPEGImages, SegmentationObject, SegmentationClass, ImageSets and labelmap.txt; later objects cover earlier ones.

    Raises UserError for more classes or objects in an image than the 254 colours, and for a name that it cannot hold.
    """
    colors = palette()
    if len(data.names) >= BORDER:
        raise UserError(f"VOC has colours for {BORDER - 1} classes; there are {len(data.names)}")
    if wrong := [name for name in data.names.values() if name.startswith("#") or ":" in name or name == "background"]:
        raise UserError(f"VOC's labelmap.txt cannot name a class {wrong[0]!r}; rename it: data.rename")
    used: dict[str, int] = {}
    for part, images in data.parts.items():
        names = []
        for image, _ in data.copied(with_own_stems(images, used, f"{part}_"), folder / "JPEGImages"):
            name = Path(image.file_name).with_suffix("").as_posix()
            names.append(name)
            if len(image.objects) >= BORDER:
                raise UserError(f"{image.file_name} has {len(image.objects)} objects; VOC has {BORDER - 1} colours")
            ids, kinds = np.zeros((2, *image.size), np.uint8)
            for number, (each, window, inside) in enumerate(painted(image), start=1):
                ids[window][inside] = number
                kinds[window][inside] = data.number(each.name) + 1
            tell_hidden(data, image, ids)
            for place, values in (("SegmentationObject", ids), ("SegmentationClass", kinds)):
                picture = Image.fromarray(values)
                picture.putpalette(colors.tobytes())
                write_picture(folder / place / f"{name}.png", picture)
        write_lines(folder / "ImageSets" / "Segmentation" / f"{part}.txt", names)
    rows = zip(("background", *data.names.values()), colors.tolist(), strict=False)
    labels = (f"{name}:{','.join(map(str, color))}::" for name, color in rows)
    write_lines(folder / "labelmap.txt", ["# label:color_rgb:parts:actions", *labels])
