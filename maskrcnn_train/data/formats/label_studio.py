"""Label Studio's tasks: a JSON list of pictures, each with annotations, whose results are in percent of its sides.

https://labelstud.io/guide/task_format. Polygons, brushes and ellipses have a mask, a rectangle is a box. Parts and
holes of an object hang together by cuts without width, so that it stays one region. Detections are written as
`predictions`, which Label Studio shows beside the annotations to come.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles, LabelledImage, LabelledObject, Reader
from maskrcnn_train.data.formats.masks import disjoint_regions, polygon_fault, rounded, run_lengths
from maskrcnn_train.data.formats.pictures import given_size, is_file, split_name
from maskrcnn_train.data.sources import SUFFIXES
from maskrcnn_train.data.texts import BYTE_ORDER_MARK, read_json
from maskrcnn_train.files import write_json, write_text
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Floats, Size
from maskrcnn_train.structures.brushes import unpack
from maskrcnn_train.structures.outlines import ellipse, joined, turned

HEAD = 2**16  # bytes in which the first task must show what it is
SERVED = "/data/local-files/?d="  # how Label Studio names files on its disk, below its document root
UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # before the name of a file that was uploaded
CONFIG = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <PolygonLabels name="outline" toName="image">{labels}</PolygonLabels>
  <RectangleLabels name="box" toName="image">{labels}</RectangleLabels>
</View>
"""
Task = dict[str, Any]


def find(root: Path) -> dict[str, LabelFiles]:
    """The parts by the names of the JSONs: train.json, val.json, test.json; of another name it is train."""
    found: dict[str, LabelFiles] = {}
    for path in [root] if root.is_file() else sorted(root.glob("*.json")):
        if path.suffix.lower() == ".json" and path.is_file() and _holds_tasks(path):
            part = split_name(path.stem) or "train"
            if part in found:
                both = f"data=label_studio data.{part}.annotations=[{found[part].annotations},{path}]"
                raise UserError(f"several JSONs may be the {part} part; name them: {both}")
            folders = [path.parent / "images" / path.stem, path.parent / "images", path.parent]
            images = next(folder for folder in folders if folder.is_dir())
            found[part] = LabelFiles("label_studio", images, path, note=_note(path))
    return found


def _holds_tasks(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD).removeprefix(BYTE_ORDER_MARK).lstrip()
    return head.startswith(b"[") and (b'"annotations"' in head or b'"predictions"' in head)


def _note(path: Path) -> str:
    tasks = _read_tasks(path)
    if _kind(tasks) == "predictions":
        return f"{path}: no task has an annotation; the predictions are read in their place"
    left = len(tasks) - len(_annotated(tasks))
    return f"{path}: {left} of {len(tasks)} tasks have no annotation; their images are not used" if left else ""


def _read_tasks(path: Path) -> list[Task]:
    tasks = read_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UserError(f"{path} is not a list of Label Studio's tasks; export them as JSON")
    return tasks


def _kind(tasks: list[Task]) -> str:
    """What a file is read for: its annotations; without any, its predictions."""
    return "annotations" if any(task.get("annotations") for task in tasks) else "predictions"


def _annotated(tasks: list[Task]) -> list[tuple[Task, list[dict[str, Any]]]]:
    """The tasks to read, each with its annotations, or predictions, that were not skipped."""
    kind, found = _kind(tasks), []
    for task in tasks:
        own = task[kind] if isinstance(task.get(kind), list) else []
        if kept := [each for each in own if isinstance(each, dict) and not each.get("was_cancelled")]:
            found.append((task, kept))
    return found


class LabelStudioReader(Reader):
    """Reads the tasks of one JSON."""

    def items(self) -> list[tuple[str, list[dict[str, Any]]]]:
        path, found = self.files.annotations, _annotated(_read_tasks(self.files.annotations))
        tasks = sorted(((self._file_name(task), own) for task, own in found), key=lambda each: each[0])
        for (name, _), (following, _) in pairwise(tasks):
            if name == following:
                raise UserError(f"{path}: {name} is the picture of several tasks; remove all but one")
        return tasks

    def read(self, item: tuple[str, list[dict[str, Any]]]) -> LabelledImage:
        name, annotations = item
        place = f"{self.files.annotations} {name}"
        if not is_file(self.files.images / name):  # told here: by its address alone it has no name to keep
            raise UserError(
                f"{place} is nowhere below {self.files.images}; put it there, or name its folder by "
                f"data.{self.files.part or 'train'}.images"
            )
        chosen = next((each for each in annotations if each.get("ground_truth")), annotations[-1])
        given = chosen.get("result")
        results = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
        image = LabelledImage(name, self._size(name, results, place))
        if len(annotations) > 1:
            image.unused.append(("several annotations: the ground truth or the last is read", place, False))
        labelled = {str(each.get("id")) for each in results if _label(each)}
        for number, result in enumerate(results, start=1):
            if _label(result) or str(result.get("id")) not in labelled:  # else the label is in a result of the same id
                _add(image, result, f"{place} result {number}")
        return image

    def _file_name(self, task: Task) -> str:
        """The picture of a task: the longest end of its address that is a file below the folder of images.

        It may start at the JSON: as `write` has it, images/train/a.png is a.png in images/train, not train/a.png there.
        """
        address = _address(task.get("data"))
        parts = PurePosixPath(address.replace("\\", "/")).parts
        parts = tuple(part for part in parts if part not in ("/", ".."))
        if not parts or "\0" in address:
            raise UserError(f"{self.files.annotations} has a task (id {task.get('id')}) whose data names no picture")
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        ends.append(UPLOAD.sub("", parts[-1]))
        top = self.files.annotations.parent
        places = [place for end in ends for place in (top / end, self.files.images / end)]
        found = (each for each in places if each.is_relative_to(self.files.images) and is_file(each))
        return next((each.relative_to(self.files.images).as_posix() for each in found), ends[-1])

    def _size(self, name: str, results: list[dict[str, Any]], place: str) -> Size:
        first = next((each for each in results if "original_height" in each), {})
        return given_size(first.get("original_height"), first.get("original_width"), self.files.images / name, place)


def _address(data: Any) -> str:
    """Where the picture of a task is, without server and signature; empty if `data` has none."""
    texts = {key: text for key, text in data.items() if isinstance(text, str)} if isinstance(data, dict) else {}
    paths = {}
    for key, text in texts.items():
        try:
            url = urlsplit(text)
        except ValueError:
            continue
        paths[key] = parse_qs(url.query).get("d", [""])[0] if "/local-files" in url.path else unquote(url.path)
    pictures = [path for path in paths.values() if path.lower().endswith(SUFFIXES)]
    return paths.get("image") or next(iter(pictures), "")


def _label(result: dict[str, Any]) -> str:
    """The first label of a region; empty for what has none."""
    value = result.get("value")
    lists = [given for key, given in value.items() if key.endswith("labels")] if isinstance(value, dict) else []
    return next((str(given[0]).strip() for given in lists if isinstance(given, list) and given), "")


def _add(image: LabelledImage, result: dict[str, Any], place: str) -> None:
    """Add the object of a region to an image, or why it is none."""
    value, label = result.get("value"), _label(result)
    if not isinstance(value, dict) or not ({"points", "rle", "radiusX", "height"} & {*value}):
        image.leave_out(f"{result.get('type')}: no area", place)
    elif not label:
        image.leave_out("a region without a label", place)
    elif result.get("image_rotation"):
        image.leave_out("a region of a picture that was turned in Label Studio", place)
    else:
        try:
            image.objects.append(_object(label, value, image.size, place))
        except (ValueError, TypeError, KeyError, OverflowError):
            image.leave_out(f"{result.get('type')} that cannot be read", place)


def _object(label: str, value: dict[str, Any], size: Size, place: str) -> LabelledObject:
    """Raises ValueError, TypeError, KeyError or OverflowError for values that are broken."""
    sides = np.array(size[::-1]) / 100  # pixels of a percent
    if "rle" in value:
        mask = unpack(value["rle"], 4 * size[0] * size[1]).reshape(*size, 4)[..., 3] > 0
        return LabelledObject(label, run_lengths(mask.astype(np.uint8), 0, 0, size), place=place)
    if "points" in value:
        points = np.array(value["points"], dtype=np.float64).reshape(-1, 2) * sides
        return LabelledObject(label, [_outline(points, size)], place=place)
    corner, degrees = np.array([value["x"], value["y"]], dtype=np.float64) * sides, float(value.get("rotation") or 0)
    if "radiusX" in value:
        radii = np.array([value["radiusX"], value["radiusY"]], dtype=np.float64) * sides
        points = ellipse((float(corner[0]), float(corner[1])), (float(radii[0]), float(radii[1])), degrees)
        return LabelledObject(label, [_outline(points, size)], place=place)
    extent = np.array([value["width"], value["height"]], dtype=np.float64) * sides
    corners = turned(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * extent, degrees) + corner  # around the first corner
    points = np.reshape(_outline(corners, size), (4, 2))
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return LabelledObject(label, box=[x0, y0, x1 - x0, y1 - y0], place=place)


def _outline(points: Floats, size: Size) -> list[float]:
    """Points [n, 2] as a polygon x y x y ... Raises ValueError if it cannot be drawn."""
    polygon: list[float] = rounded(points).ravel().tolist()
    if fault := polygon_fault(polygon, size):
        raise ValueError(fault)
    return polygon


def write(folder: Path, data: DataSet, *, tolerance: float) -> None:
    """PART.json and images/PART, or tasks.json and images/; label_config.xml, the project's labelling interface."""
    several = len(data.parts) > 1
    for part, images in data.parts.items():
        tasks = []
        for image, picture in data.copied(images, folder / "images" / (part if several else "")):
            name = picture.relative_to(folder).as_posix() if data.copies else image.file_name
            tasks.append(_task(image, SERVED + quote(name), data.detected, tolerance))
        write_json(folder / f"{part if several else 'tasks'}.json", tasks)
    labels = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in data.names.values()) + "\n  "
    write_text(folder / "label_config.xml", CONFIG.format(labels=labels))


def _task(image: LabelledImage, address: str, detected: bool, tolerance: float) -> Task:
    """A prediction's score is the least of its regions, by which Label Studio can put the doubtful images first."""
    results = list(_results(image, tolerance))
    if not detected:
        return {"data": {"image": address}, "annotations": [{"result": results}]}
    scores = [each["score"] for each in results]
    prediction = {"model_version": "maskrcnn_train", "score": min(scores, default=1.0), "result": results}
    return {"data": {"image": address}, "predictions": [prediction]}


def _results(image: LabelledImage, tolerance: float) -> Iterator[dict[str, Any]]:
    """A region for each object."""
    height, width = image.size
    common = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    for number, each in enumerate(image.objects, start=1):
        own = {"id": str(number), **common} | ({} if each.score is None else {"score": round(each.score, 5)})
        if regions := disjoint_regions(each, image.size, tolerance):
            points = joined([loop for region in regions for loop in region]) * 100 / (width, height)
            value = {"points": np.round(points, 10).tolist(), "closed": True, "polygonlabels": [each.name]}
            yield own | {"from_name": "outline", "type": "polygonlabels", "value": value}
        else:
            assert each.box is not None
            sides = np.round(np.array(each.box) * 100 / (width, height, width, height), 10).tolist()
            value = dict(zip(("x", "y", "width", "height"), sides, strict=True))
            value |= {"rotation": 0, "rectanglelabels": [each.name]}
            yield own | {"from_name": "box", "type": "rectanglelabels", "value": value}
