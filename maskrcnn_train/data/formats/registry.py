"""The formats of labels by name, and which of them a folder has."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from maskrcnn_train.data.formats import coco, cvat, instance_png, label_studio, labelme, mask_png, voc, yolo
from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles, Reader
from maskrcnn_train.data.paths import require_folder
from maskrcnn_train.settings.errors import UserError


class Writer(Protocol):
    def __call__(self, folder: Path, data: DataSet, *, tolerance: float) -> None: ...


class Format(NamedTuple):
    """find: the parts of a data set in a folder or file, none if it is of another format. title: for people.

    images_apart: the images may be in any folder, which a person then names. by_ending: images are found by their
    ending (`data/sources.py`), not by the name that the labels give.
    """

    title: str
    find: Callable[[Path], dict[str, LabelFiles]]
    reader: Callable[[LabelFiles], Reader] | None
    write: Writer
    images_apart: bool = False
    by_ending: bool = False


FORMATS = {  # `detect` tries them in this order: what has a file of its own before what is told by names of folders
    "coco": Format("COCO JSON", coco.find, None, coco.write, True),
    "yolo": Format("YOLO segmentation", yolo.find, yolo.YoloReader, yolo.write, by_ending=True),
    "cvat": Format("CVAT for images 1.1", cvat.find, cvat.CvatReader, cvat.write, True),
    "label_studio": Format(
        "Label Studio's tasks", label_studio.find, label_studio.LabelStudioReader, label_studio.write, True
    ),
    "voc": Format("Pascal VOC", voc.find, voc.VocReader, voc.write, by_ending=True),
    "labelme": Format("LabelMe", labelme.find, labelme.LabelmeReader, labelme.write),
    "instance_png": Format(
        "one PNG of instances an image",
        instance_png.find,
        instance_png.InstancePngReader,
        instance_png.write,
        images_apart=True,
        by_ending=True,
    ),
    "mask_png": Format(
        "one PNG a mask", mask_png.find, mask_png.MaskPngReader, mask_png.write, images_apart=True, by_ending=True
    ),
}


def find_parts(path: Path, name: str, key: str) -> dict[str, LabelFiles]:
    """The parts of a data set by name: train, val, test; of one part only, train.

    name: one of FORMATS, or auto to look which it is. key: the setting that gave `path`, for messages. Raises
    UserError where there is none.
    """
    if not path.is_file():
        require_folder(path, f"set {key} to the folder of the data set")
    if name != "auto":
        if not (found := FORMATS[name].find(path)):
            raise UserError(f"{key}={path} is not {FORMATS[name].title}; data=auto looks what it is")
        return found
    for each in FORMATS.values():
        if found := each.find(path):
            return found
    known = "; ".join(each.title for each in FORMATS.values())
    raise UserError(f"{key}={path} is in none of the known formats: {known}. See docs/formats.md")
