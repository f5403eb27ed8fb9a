"""A contact sheet of training images as the model sees them: resized, augmented, with masks, boxes and class names."""

from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskrcnn_train.data.dataset import CocoDataset
from maskrcnn_train.data.loading import build_dataset
from maskrcnn_train.data.splits.splitting import Splits
from maskrcnn_train.files import write_picture
from maskrcnn_train.reporting.drawing.objects import draw_objects
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import MaskCrops, Target

DRAWS = 3  # of each image, side by side: as augmented in three epochs
GAP = 8  # pixels between pictures
LARGEST_CELL = 640  # pixels; larger pictures are made smaller
BACKGROUND = (250, 250, 250)


def write_sheet(config: TrainConfig, splits: Splits, path: Path, *, count: int) -> Path:
    """Write a sheet of `count` training images, spread over the split, a row each; returns its path.

    The images are those that a training of this config would see in its first epochs. Raises UserError (ImageError)
    naming an image that cannot be read.
    """
    dataset = build_dataset(config, splits.train, splits.classes, training=True)
    positions = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist()
    rows = [[_cell(dataset, (epoch, position)) for epoch in range(DRAWS)] for position in positions]
    sheet = _arrange(rows, [dataset.title(position) for position in positions])
    return write_picture(path, sheet, quality=88)


def _cell(dataset: CocoDataset, key: tuple[int, int]) -> Image.Image:
    pixels, target, _ = dataset[key]
    picture = draw_objects(
        np.asarray(dataset.reader.show(pixels.permute(1, 2, 0).numpy())),
        boxes=target["boxes"].numpy(),
        labels=target["labels"].tolist(),
        names=dataset.classes.names,
        masks=_bitmaps(target),
    )
    picture.thumbnail((LARGEST_CELL, LARGEST_CELL), Image.Resampling.LANCZOS)
    return picture


def _bitmaps(target: Target) -> list[tuple[int, int, np.ndarray]] | None:
    """(x0, y0, bitmap) of each object, None for a model without masks."""
    found = target.get("masks")
    if not isinstance(found, MaskCrops):
        return None
    return [(x0, y0, found.crop(number).numpy()) for number, (x0, y0, *_) in enumerate(found.boxes.tolist())]


def _arrange(rows: list[list[Image.Image]], names: list[str]) -> Image.Image:
    """Pictures in a grid, each row under its name."""
    font = ImageFont.load_default(size=16)
    bar = 26
    widths = [max(row[column].width for row in rows) for column in range(DRAWS)]
    heights = [max(picture.height for picture in row) + bar for row in rows]
    lefts, tops = (list(accumulate((side + GAP for side in sides), initial=GAP)) for sides in (widths, heights))
    sheet = Image.new("RGB", (lefts[-1], tops[-1]), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for row, name, top in zip(rows, names, tops, strict=False):
        draw.text((GAP, top + 3), name, (30, 30, 30), font=font)
        for picture, left in zip(row, lefts, strict=False):
            sheet.paste(picture, (left, top + bar))
    return sheet
