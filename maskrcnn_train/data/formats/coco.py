"""COCO JSONs: where they are in a folder, and how a data set is written as such. `data/coco/` reads them."""

import re
from pathlib import Path
from typing import Any

import orjson

from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles, LabelledImage, LabelledObject
from maskrcnn_train.data.formats.masks import bitmap_of, needs_bitmap, object_regions
from maskrcnn_train.data.formats.pictures import SPLIT_FOLDERS
from maskrcnn_train.data.texts import BYTE_ORDER_MARK
from maskrcnn_train.files import write_json
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Size
from maskrcnn_train.structures.rle import compressed

NAMES = tuple(SPLIT_FOLDERS)
LAYOUTS = {  # of each split: (folder of images, annotations), below data.root
    "coco": {name: (f"{name}2017", f"annotations/instances_{name}2017.json") for name in NAMES},
    "shapes": {name: (name, f"annotations/{name}.json") for name in NAMES},
    "roboflow": {
        name: (folder, f"{folder}/_annotations.coco.json")
        for name, folder in zip(NAMES, ("train", "valid", "test"), strict=True)
    },
}
DEPTH = ("*.json", "annotations/*.json", "*/*.json")
LOOKED_AT = 2**19  # bytes at the beginning and at the end of a JSON
WORDS = (b'"images"', b'"annotations"', b'"categories"', b'"category_id"')
FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
LONGEST_NAME = 200
MOST = 100  # JSONs of one depth that are looked at; other formats have one for each image


def find(root: Path) -> dict[str, LabelFiles]:
    """The parts of a folder with COCO JSONs: a usual layout, else by the names of files and their folders."""
    if root.is_file():
        return {"train": LabelFiles("coco", root.parent, root)} if _is_coco(root) else {}
    for layout in LAYOUTS.values():
        found = {name: (root / json, root / images) for name, (images, json) in layout.items()}
        if found["train"][0].is_file():
            return {
                name: LabelFiles("coco", _images_of(path, root, name, images), path)
                for name, (path, images) in found.items()
                if path.is_file()
            }
    parts: dict[str, list[LabelFiles]] = {}
    for path in dict.fromkeys(path for pattern in DEPTH for path in sorted(root.glob(pattern))[:MOST]):
        if _is_coco(path):
            words = {*re.findall("[a-z]+", path.stem.lower()), path.parent.name.lower()}
            name = next((name for name, folders in SPLIT_FOLDERS.items() if words & {*folders}), "train")
            parts.setdefault(name, []).append(LabelFiles("coco", _images_of(path, root, name, path.parent), path))
    return {name: _only(name, found) for name, found in parts.items()}


def _only(name: str, found: list[LabelFiles]) -> LabelFiles:
    """The one JSON of a part; of COCO's own files that of the instances."""
    found = [files for files in found if "instances" in files.annotations.name] or found
    if len(found) > 1:
        paths = ",".join(str(files.annotations) for files in found)
        raise UserError(f"several COCO JSONs may be the {name} part; name those: data.{name}.annotations=[{paths}]")
    return found[0]


def _is_coco(path: Path) -> bool:
    """Whether a JSON has two of COCO's words in what is looked at of it, which may lie inside its two long lists."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    text = _ends(path)
    is_other = b'"shapes"' in text[: 2**12] or text.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"["
    return not is_other and sum(word in text for word in WORDS) >= 2


def _ends(path: Path) -> bytes:
    """The beginning and the end of a file, which may be large."""
    with path.open("rb") as file:
        head = file.read(LOOKED_AT)
        file.seek(max(path.stat().st_size - LOOKED_AT, len(head)))
        return head + file.read()


def _images_of(path: Path, root: Path, name: str, usual: Path) -> Path:
    """The folder in which the first image of a JSON is; `usual` if it is there or nowhere."""
    match = FILE_NAME.search(_ends(path))
    try:
        first = str(orjson.loads(match[1])) if match else ""
    except ValueError:
        first = ""
    if not first or "\0" in first or len(first) > LONGEST_NAME:
        return usual
    names = [usual.name, *SPLIT_FOLDERS[name], path.stem.removeprefix("instances_")]  # the last as `write` has it
    folders = [usual, path.parent, root / "images", root, *(root / "images" / each for each in names)]
    folders += [root / each for each in SPLIT_FOLDERS[name]]
    return next((folder for folder in folders if (folder / first).is_file()), usual)


def write(folder: Path, data: DataSet, *, tolerance: float) -> None:
    """annotations/instances_PART.json and images/PART; masks with holes, or without tolerance, as run lengths."""
    categories = [{"id": number, "name": name} for number, name in data.names.items()]
    ids = {name: number for number, name in data.names.items()}
    for part, images in data.parts.items():
        entries: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image, _ in data.copied(images, folder / "images" / part):
            entries.append(image_entry(image, len(entries) + 1))
            for each in image.objects:
                own = {"id": len(annotations) + 1, "image_id": entries[-1]["id"], "category_id": ids[each.name]}
                annotations.append(own | object_entry(each, image.size, tolerance))
        content = {"images": entries, "annotations": annotations, "categories": categories}
        write_json(folder / "annotations" / f"instances_{part}.json", content)


def image_entry(image: LabelledImage, number: int) -> dict[str, Any]:
    """An image as COCO writes it, with its own id if it has one."""
    height, width = image.size
    id_ = number if image.id is None else image.id
    return {"id": id_, "file_name": image.file_name, "height": height, "width": width}


def object_entry(each: LabelledObject, size: Size, tolerance: float) -> dict[str, Any]:
    """The fields of an annotation that follow from its object: iscrowd, bbox, area, segmentation, score."""
    crop = bitmap_of(each, size)
    box, area = each.box, 0 if crop is None else int(crop[2].sum())
    if box is None:
        assert crop is not None
        x0, y0, bitmap = crop
        box = [x0, y0, bitmap.shape[1], bitmap.shape[0]]
    found: dict[str, Any] = {"iscrowd": int(each.crowd), "bbox": box, "area": each.area or area or box[2] * box[3]}
    if crop is not None:
        found["segmentation"] = _segmentation(each, size, tolerance)
    return found if each.score is None else {**found, "score": each.score}


def _segmentation(each: LabelledObject, size: Size, tolerance: float) -> Any:
    regions = [] if each.crowd else object_regions(each, size, tolerance)
    if not regions or needs_bitmap(each, regions, tolerance):
        code = compressed(each.segmentation, size)
        counts = code["counts"]
        return {"size": list(size), "counts": counts.decode() if isinstance(counts, bytes) else counts}
    return [loop.ravel().tolist() for region in regions for loop in region]
