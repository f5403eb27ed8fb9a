"""The best and the worst images of a validation for a page: each picture once, objects and detections as outlines."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.pixels import PixelReader
from maskrcnn_train.evaluation.coco.ground_truth import check_results
from maskrcnn_train.evaluation.diagnostics.errors import ERROR_KINDS, RIGHT
from maskrcnn_train.evaluation.diagnostics.grades import Graded, ImageGrade, grade_images
from maskrcnn_train.reporting.drawing.colors import class_color
from maskrcnn_train.reporting.drawing.outlines import box_path, mask_path
from maskrcnn_train.structures.rle import decode_crop

JPEG_QUALITY = 78
KINDS = ERROR_KINDS | {RIGHT: "the right class, overlapping enough"}


@dataclass
class Scene:
    """A validation as it can be looked at: COCO ground truth and COCO results.

    paths: of the images, by id. reader: of the files.
    """

    ground_truth: dict[str, Any]
    results: list[dict[str, Any]]
    paths: dict[int, Path]
    reader: PixelReader
    kind: str
    max_detections: int


@dataclass
class Outline:
    """path: SVG, picture pixels. label: 1..K. kind: one of KINDS. text: class and score; iou: with its partner."""

    path: str
    label: int
    kind: str
    text: str
    iou: float


@dataclass
class Card:
    """One image. address: a data: URL; width, height: pixels. quality: 0 to 1. rank: 1 is the worst of all images."""

    name: str
    address: str
    width: int
    height: int
    quality: float
    rank: int
    truth: list[Outline]
    prediction: list[Outline]

    @property
    def counts(self) -> list[tuple[str, int]]:
        """How many objects and detections of each kind, right pairs once, in the order of KINDS."""
        found = Counter(each.kind for each in self.prediction)
        found["missed"] = sum(each.kind == "missed" for each in self.truth)
        return [(kind, found[kind]) for kind in KINDS if found[kind]]


@dataclass
class Gallery:
    """cards: worst first, `num_worst` and `num_best` of `num_images` or all. colors: of the classes, as CSS. threshold:
    detections with lower scores are left out. unreadable: what could not be shown, in words."""

    cards: list[Card]
    names: list[str]
    colors: list[str]
    threshold: float
    num_images: int
    num_worst: int
    num_best: int
    unreadable: list[str]

    @property
    def class_counts(self) -> list[tuple[int, str, int]]:
        """Label, name and number of objects and detections of each class that is on a picture."""
        found = Counter(each.label for card in self.cards for each in (*card.truth, *card.prediction))
        return [(label, name, found[label]) for label, name in enumerate(self.names, 1) if found[label]]

    @property
    def kind_counts(self) -> list[tuple[str, str, int]]:
        """Kind, meaning and number of each kind that is on a picture."""
        found = sum((Counter(dict(card.counts)) for card in self.cards), Counter())
        return [(kind, meaning, found[kind]) for kind, meaning in KINDS.items() if found[kind]]


def build_gallery(scene: Scene, *, worst: int, best: int, size: int) -> Gallery:
    """The `worst` and the `best` images by their quality, their longer side at most `size` pixels.

    Raises UserError for results that do not belong to the ground truth.
    """
    truth, results = scene.ground_truth, scene.results
    check_results(truth, results, list(dict.fromkeys(["bbox", scene.kind])))
    threshold, grades = grade_images(truth, results, kind=scene.kind, max_detections=scene.max_detections)
    ranked = list(enumerate(sorted(grades, key=lambda each: (each.quality, -each.num_errors)), start=1))
    chosen = ranked
    if len(ranked) > worst + best:  # an empty image that was left alone says little
        with_objects = [(rank, grade) for rank, grade in ranked[worst:] if grade.objects]
        chosen = ranked[:worst] + with_objects[max(len(with_objects) - best, 0) :]
    categories = truth["categories"]
    colors = ["#{:02x}{:02x}{:02x}".format(*class_color(label)) for label in range(1, len(categories) + 1)]
    rows = {image["id"]: row for row, image in enumerate(truth["images"])}
    cards, unreadable = [], []
    for rank, grade in chosen:
        try:
            cards.append(_card(scene, rows[grade.image_id], grade, rank, size))
        except ImageError as error:
            unreadable.append(str(error))
    return Gallery(
        cards, [each["name"] for each in categories], colors, threshold, len(grades), worst, best, unreadable
    )


def _card(scene: Scene, row: int, grade: ImageGrade, rank: int, size: int) -> Card:
    image = scene.ground_truth["images"][row]
    whole = (image["height"], image["width"])
    scale = min(1.0, size / max(whole))
    height, width = (max(1, round(side * scale)) for side in whole)
    picture = scene.reader.show(scene.reader.read(scene.paths[image["id"]], expected=whole, smallest=(height, width)))
    return Card(
        name=Path(image.get("file_name") or scene.paths[image["id"]].name).name,
        address=jpeg_address(picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)),
        width=width,
        height=height,
        quality=grade.quality,
        rank=rank,
        truth=_outlines(scene, scene.ground_truth["annotations"], grade.objects, scale),
        prediction=_outlines(scene, scene.results, grade.detections, scale),
    )


def _outlines(scene: Scene, items: Sequence[dict[str, Any]], graded: Sequence[Graded], scale: float) -> list[Outline]:
    """Large ones first, so that small ones lie on them and can be pointed at."""
    categories = scene.ground_truth["categories"]
    labels = {category["id"]: label for label, category in enumerate(categories, start=1)}
    outlines = []
    for each in sorted(graded, key=lambda each: -items[each.row]["bbox"][2] * items[each.row]["bbox"][3]):
        item = items[each.row]
        label = labels[item["category_id"]]
        text = str(categories[label - 1]["name"]) + (f" {item['score']:.2f}" if "score" in item else "")
        path = mask_path(*decode_crop(item["segmentation"]), scale) if scene.kind == "segm" else ""
        path = path or box_path(item["bbox"], scale)  # nothing of the mask is left at this size
        outlines.append(Outline(path, label, each.kind, text, each.iou))
    return outlines


def jpeg_address(picture: Image.Image) -> str:
    """A picture as a data: URL."""
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
