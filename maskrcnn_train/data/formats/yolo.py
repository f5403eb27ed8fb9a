"""YOLO's labels, as Ultralytics reads them: a .txt beside each picture, a class and numbers from 0 to 1 in each line.

Five numbers are a box (class, middle, width, height), seven or more an outline (class, x y x y ...); with `kpt_shape`
in data.yaml they are a box and keypoints, which are left out. Names of classes and the pictures of each part are in
data.yaml: https://docs.ultralytics.com/datasets/segment. Parts of one object, and holes, hang together by cuts without
width, as Ultralytics' own converters write them.
"""

import os
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles, LabelledImage, LabelledObject, Reader
from maskrcnn_train.data.formats.masks import disjoint_regions, rounded
from maskrcnn_train.data.formats.pictures import find_picture, picture_size, with_own_stems
from maskrcnn_train.data.paths import common_folder
from maskrcnn_train.data.sources import list_pictures
from maskrcnn_train.data.texts import read_lines, write_lines
from maskrcnn_train.files import write_text
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Size
from maskrcnn_train.structures.outlines import joined

YAMLS = ("data.yaml", "data.yml", "dataset.yaml")
NAME_LISTS = ("classes.txt", "labels/classes.txt", "obj.names")
KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def find(root: Path) -> dict[str, LabelFiles]:
    """The parts of a folder with data.yaml, or with names in classes.txt and labels/; none if it is no YOLO data."""
    if root.is_file():
        return _parts_of(root) if root.suffix.lower() in (".yaml", ".yml") else {}
    for path in [root / name for name in YAMLS] + sorted(root.glob("*.y*ml")):
        if path.is_file() and (parts := _parts_of(path)):
            return parts
    names = next((root / name for name in NAME_LISTS if (root / name).is_file()), None)
    if names is None or not any((root / "labels").rglob("*.[tT][xX][tT]")):
        return {}
    return {"train": LabelFiles("yolo", root, names)}


def _parts_of(path: Path) -> dict[str, LabelFiles]:
    content = _read_yaml(path)
    if "names" not in content:
        return {}
    found: dict[str, LabelFiles] = {}
    given = {name: pictures for name in KEYS if (pictures := _given(content, name))}
    for name, pictures in given.items():
        if name != "train" and pictures == given.get("train"):  # Ultralytics requires `val`, so `write` names it too
            found["train"] = replace(found["train"], note=f"{path}: {name} is no part: it names the images of train")
            continue
        reader = YoloReader(LabelFiles("yolo", path.parent, path, name))
        try:
            found[name] = replace(reader.files, images=reader.folder())
        except UserError:
            if name != "test":  # tools name one that they did not write
                raise
    return found


def _given(content: dict[str, Any], part: str) -> Any:
    """The pictures of a part as data.yaml gives them; None where it does not."""
    return next((content[key] for key in KEYS[part] if content.get(key)), None)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError, TypeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return content if isinstance(content, dict) else {}


class YoloReader(Reader):
    """Reads the pictures of one part and their .txt."""

    @cached_property
    def content(self) -> dict[str, Any]:
        """Of data.yaml; empty where names are in a list of their own."""
        path, part = self.files.annotations, self.files.part
        return {} if path.suffix == ".txt" or part is None else _read_yaml(path)

    @cached_property
    def classes(self) -> dict[int, str]:
        """Names by number, as a list or by number in `names`."""
        path = self.files.annotations
        names = self.content.get("names") if self.content else read_lines(path)
        items = [*names.items()] if isinstance(names, dict) else [*enumerate(names if isinstance(names, list) else [])]
        if not items or not all(type(number) is int and number >= 0 for number, _ in items):
            raise UserError(f"{path}: `names` should be a list, or a name for each number from 0")
        found = {number: str(name) for number, name in items}
        if repeated := [name for name, count in Counter(found.values()).items() if count > 1]:
            raise UserError(f"{path}: `names` has {repeated[0]} twice; give each class a name of its own")
        return found

    @cached_property
    def pictures(self) -> list[Path]:
        if not self.content:
            return [each.absolute() for each in list_pictures(self.files.images)]
        given = _given(self.content, str(self.files.part))
        sources = given if isinstance(given, list) else [given]
        found = [picture for source in sources for picture in self._pictures_in(str(source))]
        if not found:
            raise UserError(f"{self.files.annotations}: {self.files.part}: {given} holds no pictures")
        return sorted({Path(os.path.abspath(picture)) for picture in found})  # lists may name ../images

    def _pictures_in(self, source: str) -> list[Path]:
        """The pictures of a folder, or of a list of paths; where they are not, also below this folder."""
        path = self.files.annotations
        base = path.parent / str(self.content.get("path") or "")
        tried = [base / source, path.parent / source, path.parent / source.removeprefix("../")]
        place = next((each for each in tried if each.exists()), None)
        if place is None:
            raise UserError(f"{path}: {self.files.part}: {tried[0]} does not exist; correct `path` or `{source}`")
        if place.is_dir():
            return list_pictures(place)
        found = []
        for line in filter(None, read_lines(place)):  # CVAT writes data/ before each path
            options = [each / line for each in (base, place.parent)]
            options += [each / line.partition("/")[2] for each in (base, place.parent)]
            found.append(next((each for each in options if each.is_file()), options[0]))
        return found

    def folder(self) -> Path:
        """What file names are relative to: the deepest folder that holds all pictures of the part."""
        return common_folder(picture.parent for picture in self.pictures)

    def depends(self) -> list[Path]:
        found = [self.files.annotations, *self.pictures, *map(_label_file, self.pictures)]
        return [path for path in found if path.is_file()]

    def strays(self) -> list[Path]:
        stems, found = defaultdict[Path, set[str]](lambda: {"classes"}), list[Path]()
        for picture in self.pictures:
            stems[picture.parent].add(picture.stem)
        for folder, own in stems.items():
            labels = label_path(folder / "a.jpg").parent
            names = [] if labels == folder or not labels.is_dir() else os.listdir(labels)
            texts = [name for name in names if name[0] != "." and name.lower().endswith(".txt")]
            others = [name for name in texts if name[:-4] not in own]
            found += [labels / name for name in others if find_picture(folder / name[:-4]) is None]
        return sorted(found)

    def items(self) -> list[Path]:
        return self.pictures

    def read(self, picture: Path) -> LabelledImage:
        size, label = picture_size(picture), _label_file(picture)
        image = LabelledImage(picture.relative_to(os.path.abspath(self.files.images)).as_posix(), size)
        for number, line in enumerate(read_lines(label) if label.is_file() else [], start=1):
            if line:
                self._add(image, line, f"{label} line {number}")
        return image

    def _add(self, image: LabelledImage, line: str, place: str) -> None:
        try:
            category, *values = map(float, line.split())
        except ValueError:
            image.leave_out("line is not a class and numbers", place)
            return
        if self.content.get("kpt_shape") and len(values) > 4:
            image.unused.append(("keypoints: only the box is read", place, False))
            values = values[:4]
        if len(values) < 4 or len(values) == 5 or len(values) % 2:
            image.leave_out("line is neither a box (5 numbers) nor an outline (7, 9, ...)", place)
            return
        name = self.classes.get(int(category)) if category.is_integer() else None
        if name is None:
            last = max(self.classes)
            raise UserError(f"{place} has class {category:g}; {self.files.annotations} names the classes 0 to {last}")
        height, width = image.size
        with np.errstate(over="ignore"):
            numbers = rounded(np.array(values) * np.tile([width, height], len(values) // 2))
        if len(values) > 4:
            image.objects.append(LabelledObject(name, [numbers.tolist()], place=place))
        else:
            x, y, w, h = numbers.tolist()
            image.objects.append(LabelledObject(name, box=[x - w / 2, y - h / 2, w, h], place=place))


def _label_file(picture: Path) -> Path:
    """The .txt of a picture, or .TXT: some tools write capitals, and Linux tells them apart."""
    path = label_path(picture)
    return path if path.is_file() else path.with_suffix(".TXT")


def label_path(picture: Path) -> Path:
    """The .txt of a picture: in labels/ in place of the last images/ of its path."""
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def write(folder: Path, data: DataSet, *, tolerance: float) -> None:
    """data.yaml, images/ and labels/; objects known by their box only become box lines.

    Without `path`, which Ultralytics would take from the folder it runs in, all is relative to data.yaml.
    """
    for part, images in data.parts.items():
        for image, picture in data.copied(with_own_stems(images), folder / "images" / part):
            lines = (_line(each, image.size, data.number(each.name), tolerance) for each in image.objects)
            write_lines(label_path(picture), lines)
    names = dict(enumerate(data.names.values()))
    keys = {part if part in KEYS else "train": f"images/{part}" for part in data.parts}
    content = {"val": next(iter(keys.values())), **keys, "names": names}
    write_text(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _line(each: LabelledObject, size: Size, number: int, tolerance: float) -> str:
    height, width = size
    regions = disjoint_regions(each, size, tolerance)
    if regions:
        values = joined([loop for region in regions for loop in region]) / (width, height)
    else:
        assert each.box is not None
        x, y, w, h = each.box
        values = np.array([[x + w / 2, y + h / 2], [w, h]]) / (width, height)
    return f"{number} {' '.join(f'{value:.10g}' for value in values.ravel())}"
