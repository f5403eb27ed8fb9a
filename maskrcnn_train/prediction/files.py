"""What `predict` writes of each image: a picture or a video's frame, masks, COCO results, a table."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_train.data.formats.labelled import DataSet, LabelledImage, LabelledObject
from maskrcnn_train.data.formats.writing import write_labels
from maskrcnn_train.data.paths import common_folder
from maskrcnn_train.data.pixels import PixelReader
from maskrcnn_train.files import unused_name, write_csv, write_json, write_picture
from maskrcnn_train.prediction.image_list import write_image_list
from maskrcnn_train.prediction.pictures import Prepared
from maskrcnn_train.prediction.video import VideoWriter
from maskrcnn_train.reporting.drawing.objects import draw_objects
from maskrcnn_train.settings.command_schema import DrawConfig, PredictConfig
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.detections import Detections

LONGEST_JPEG = 65_500  # pixels


@dataclass
class PredictionFiles:
    """The files of one call, in `folder`.

    reader: shows the images. pictures: their folder, or the video, of which every picture is then a frame. results:
    COCO results so far; images: the file, or name, of each image id, its height and width; failed: a line for each
    image that was skipped.
    """

    folder: Path
    config: PredictConfig
    classes: ClassMap
    reader: PixelReader
    pictures: Path
    video: VideoWriter | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    images: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def add(self, image: Prepared, found: Detections, name: str, image_id: int) -> None:
        """Write what was asked for of one image."""
        if self.config.save.pictures:
            section = self.config.draw
            if section.color_by == "auto" and self.video is not None:  # colours stay the same from frame to frame
                section = replace(section, color_by="class")
            picture = draw_detections(self.reader.show(image.original), found, self.classes.names, section)
            if self.video is not None:
                self.video.add(picture)
            else:
                suffix = "jpg" if max(picture.size) <= LONGEST_JPEG else "png"
                write_picture(self.pictures / f"{name}.{suffix}", picture, quality=90)
        if self.config.save.masks:
            for number, (x0, y0, bitmap) in enumerate(found.crops(), start=1):
                full = Image.new("L", (found.size[1], found.size[0]))
                full.paste(Image.fromarray(bitmap * np.uint8(255)), (x0, y0))
                write_picture(self.folder / "masks" / f"{name}_{number}.png", full)
        self.results += found.to_coco(image_id)
        self.images[image_id] = (image.source or name, *image.size)

    def finish(self) -> None:
        """Write predictions.json, images.json and, if asked for, detections.csv and data sets for label tools."""
        write_json(self.folder / "predictions.json", self.results)
        write_image_list(self.folder, self.images, self.classes)
        write_json(self.folder / "classes.json", self.classes.to_plain(), indent=2)
        save = self.config.save
        for format_ in save.formats:
            data = DataSet(
                self.classes.name_of_id, {"predictions": self._labelled()}, copies=save.copy_images, detected=True
            )
            write_labels(self.folder / "labels" / format_, format_, data, tolerance=save.tolerance)
        if self.config.save.csv:
            names = self.classes.name_of_id
            lines: list[list[Any]] = [["file", "class", "score", "x", "y", "width", "height"]]
            for each in self.results:
                lines.append(
                    [self.images[each["image_id"]][0], names[each["category_id"]], each["score"], *each["bbox"]]
                )
            write_csv(self.folder / "detections.csv", lines)

    def _labelled(self) -> Iterator[LabelledImage]:
        """The images and what was found on them; file names are relative to the folder that holds all of them."""
        names, found = self.classes.name_of_id, defaultdict(list)
        for each in self.results:
            shape, score = each.get("segmentation"), round(each["score"], 4)
            found[each["image_id"]].append(
                LabelledObject(names[each["category_id"]], shape, each["bbox"], False, score)
            )
        paths = {image_id: Path(name).absolute() for image_id, (name, _, _) in self.images.items()}
        folder = common_folder(path.parent for path in paths.values()) if paths else Path()
        for image_id, path in paths.items():
            file_name, size = path.relative_to(folder).as_posix(), self.images[image_id][1:]
            yield LabelledImage(file_name, size, found[image_id], path=path, id=image_id)


def draw_detections(image: Image.Image, found: Detections, class_names: list[str], section: DrawConfig) -> Image.Image:
    """The image with its detections, as the `draw` section says."""
    labels, color_by = found.labels.tolist(), section.color_by
    if color_by == "auto":  # several objects of one class would look like one
        color_by = "instance" if len(labels) > 1 and len(set(labels)) == 1 else "class"
    return draw_objects(
        np.asarray(image),
        boxes=found.boxes.numpy(),
        labels=labels,
        names=class_names,
        scores=found.scores.tolist(),
        masks=found.crops() if found.has_masks else None,
        opacity=section.mask_opacity,
        thickness=section.box_thickness,
        text_size=section.text_size,
        color_by=color_by,
    )


def unique_stems(paths: list[Path]) -> list[str]:
    """The stem of each file, with a number where several files have it."""
    used: dict[str, int] = {}
    return [unused_name(path.stem, used) for path in paths]
