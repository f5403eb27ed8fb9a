"""The index of labels in any format: each image is read once, checked like a COCO JSON, and cached in the same way."""

import hashlib
from collections.abc import Sequence
from typing import Any

from maskrcnn_train.data.coco.entries import Fault, Faults
from maskrcnn_train.data.coco.index import AnnotationIndex, open_saved, save_index, state_folder
from maskrcnn_train.data.coco.raw_annotations import RawAnnotations, join, read_items
from maskrcnn_train.data.coco.reader import build_index, open_index
from maskrcnn_train.data.coco.skipped import SkippedTable
from maskrcnn_train.data.formats.coco import image_entry
from maskrcnn_train.data.formats.joining import join_indices
from maskrcnn_train.data.formats.labelled import LabelFiles, LabelledObject, Reader
from maskrcnn_train.data.formats.masks import area_of_cut
from maskrcnn_train.data.formats.pictures import is_file
from maskrcnn_train.data.formats.registry import FORMATS
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Size

BLOCK = 5000  # annotations that are Python objects at one time


def open_labels(files: Sequence[LabelFiles], faults: Faults | None = None) -> AnnotationIndex:
    """The index of one part of a data set, from the cache while its files are unchanged, else read and cached.

    files: of several, the images are joined. faults: receives the faults that would stop a training; without it the
    first is raised as UserError.
    """
    indices = [_open(each, faults) for each in files]
    return indices[0] if len(files) == 1 else join_indices(indices, [each.images for each in files])


def _open(files: LabelFiles, faults: Faults | None) -> AnnotationIndex:
    build_reader = FORMATS[files.format].reader
    if build_reader is None:
        return open_index(files.annotations, faults)
    reader = build_reader(files)
    folder = state_folder(f"{files.annotations.resolve()} {files.part}", _state(files, reader))
    if (saved := open_saved(folder)) is not None:
        return saved
    found = Faults(str(files.annotations)) if faults is None else faults
    index = _read(files, reader, found)
    if faults is None and found:
        raise UserError(found.in_order[0].message)
    complete = all(is_file(files.images / index.file_name(row)) for row in range(index.num_images))
    # a picture that is still missing may come under another name, which the labels' own files do not tell
    return save_index(index, folder) if complete and not found else index


def _state(files: LabelFiles, reader: Reader) -> str:
    """Another text for every state of the files, by names, sizes and times of the last change."""
    state = hashlib.sha256(f"{files}".encode())
    for path in [*reader.depends(), *reader.strays()]:
        stat = path.stat()
        state.update(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n".encode())
    return state.hexdigest()


def _read(files: LabelFiles, reader: Reader, faults: Faults) -> AnnotationIndex:
    """Read all images. Category ids are those of the files; without, classes are numbered from 1 by name."""
    images: list[dict[str, Any]] = []
    names: dict[str, int] = {}  # numbers in the order of appearance
    owners: list[str] = []
    places: list[str] = []
    blocks: list[RawAnnotations] = []
    skipped, pending = SkippedTable(), list[dict[str, Any]]()
    for path in map(str, reader.strays()):
        skipped.add("label file that belongs to no picture", path, path)
    for item in reader.items():
        try:
            image = reader.read(item)
        except UserError as error:
            fault = faults.setdefault(("label-file", "file"), Fault("label-file", "file", str(error)))
            fault.items.append(str(error))
            continue
        images.append(image_entry(image, len(images) + 1))
        for reason, place, is_left_out in image.unused:
            skipped.add(reason, place, place, dropped=is_left_out)
        for each in image.objects:
            owners.append(each.name)
            places.append(each.place)
            category = names.setdefault(each.name, len(names) + 1)
            pending.append(_annotation_entry(each, image.size, len(places), len(images), category))
        if len(pending) >= BLOCK:
            blocks.append(read_items(pending, faults))
            pending = []
    raw = join([*blocks, read_items(pending, faults)])
    classes = reader.classes or dict(enumerate(sorted(names), start=1))
    _renumber(raw, names, classes)
    categories = [{"id": number, "name": name} for number, name in classes.items()]
    source = str(files.annotations) + (f" ({files.part})" if files.part else "")
    return build_index(source, images, categories, raw, faults, skipped, places)


def _renumber(raw: RawAnnotations, names: dict[str, int], classes: dict[int, str]) -> None:
    """Give annotations the ids of their classes, in place of the order of appearance."""
    ids = {name: number for number, name in reversed(classes.items())}
    table = [0, *(ids[name] for name in names)]
    raw.category_ids[:] = [table[number] for number in raw.category_ids.tolist()]


def _annotation_entry(each: LabelledObject, size: Size, number: int, image: int, category: int) -> dict[str, Any]:
    """As a COCO JSON has it; an area that is None is computed later."""
    found = {"id": number, "image_id": image, "category_id": category, "iscrowd": int(each.crowd)}
    return {**found, "bbox": each.box, "segmentation": each.segmentation, "area": area_of_cut(each, size)}
