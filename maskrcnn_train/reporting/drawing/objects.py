"""Draw objects on an image: translucent masks with outlines, boxes, class names and scores."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from maskrcnn_train.reporting.drawing.colors import Color, class_color, text_color
from maskrcnn_train.structures.arrays import Flags, Floats

CroppedMask = tuple[int, int, npt.NDArray[Any]]  # x0, y0, uint8 or bool [h, w]
SMALLEST_LONG_SIDE = 480  # pixels; below it a class name can't be read


def draw_objects(
    image: npt.NDArray[np.uint8],
    *,
    boxes: npt.ArrayLike,
    labels: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    masks: Sequence[CroppedMask] | None = None,
    opacity: float = 0.4,
    thickness: int | None = None,
    text_size: int | None = None,
    color_by: str = "class",
) -> Image.Image:
    """A picture of the objects; a small image is enlarged by a whole factor so that its text can be read.

    image: uint8 [H, W, 3], R G B. boxes: [N, 4], x1 y1 x2 y2, pixels of `image`. labels: 1..K, names[label - 1]
    being the class. masks: (x0, y0, bitmap [h, w]) inside the image, one per box. Large objects are drawn
    first, so that small ones stay visible on them. thickness, text_size: pixels of the picture; None: fitting its
    size; no boxes with thickness 0. color_by: class, instance.
    """
    scale = max(1, math.ceil(SMALLEST_LONG_SIDE / max(image.shape[:2])))
    corners = np.asarray(boxes, np.float64).reshape(-1, 4) * scale
    colors = [
        class_color(int(label) if color_by == "class" else number) for number, label in enumerate(labels, start=1)
    ]
    order = np.argsort(-(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), kind="stable").tolist()
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    line = max(2, round(max(picture.size) / 500)) if thickness is None else thickness
    if masks is not None:
        _paint_masks(picture, [masks[i] for i in order], [colors[i] for i in order], scale, max(line, 1), opacity)
    if line > 0:
        draw = ImageDraw.Draw(picture)
        for index in order:
            _draw_box(draw, corners[index], colors[index], line, picture.size)
    texts = [names[int(label) - 1] for label in labels]
    if scores is not None:
        texts = [f"{text} {float(score):.2f}" for text, score in zip(texts, scores, strict=True)]
    _draw_texts(picture, corners, texts, colors, text_size)
    return picture


def side_by_side(left: Image.Image, right: Image.Image, captions: tuple[str, str]) -> Image.Image:
    """Two pictures of one height beside each other, each under its caption."""
    gap = max(4, left.width // 100)
    font = ImageFont.load_default(size=max(14, round(max(left.size) / 40)))
    bar = round(font.getbbox("Ag")[3] * 1.5)
    sheet = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height) + bar), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    for x, picture, caption in ((0, left, captions[0]), (left.width + gap, right, captions[1])):
        sheet.paste(picture, (x, bar))
        draw.text((x + picture.width / 2, bar / 2), caption, (30, 30, 30), font=font, anchor="mm")
    return sheet


def _paint_masks(
    picture: Image.Image, masks: Sequence[CroppedMask], colors: Sequence[Color], scale: int, line: int, opacity: float
) -> None:
    for (x0, y0, bitmap), color in zip(masks, colors, strict=True):
        if not np.asarray(bitmap).size:
            continue
        inside = _enlarged_mask(bitmap, scale)
        corner = (x0 * scale, y0 * scale)
        picture.paste(color, corner, Image.fromarray(inside.astype(np.uint8) * round(255 * opacity)))
        picture.paste(color, corner, Image.fromarray((inside & ~_eroded(inside, line)).astype(np.uint8) * 255))


def _enlarged_mask(bitmap: npt.NDArray[Any], scale: int) -> Flags:
    """The mask at the picture's scale, its steps rounded off: bool [h * scale, w * scale]."""
    inside = np.asarray(bitmap) > 0
    if scale == 1:
        return inside
    gray = Image.fromarray(inside.astype(np.uint8) * 255)
    gray = gray.resize((gray.width * scale, gray.height * scale), Image.Resampling.NEAREST)
    return np.asarray(gray.filter(ImageFilter.GaussianBlur(0.6 * scale))) > 127


def _eroded(inside: Flags, pixels: int) -> Flags:
    """The mask without its outermost `pixels`; beyond the array there is nothing."""
    height, width = inside.shape
    padded = np.pad(inside, pixels)
    rows, core = np.ones((height, padded.shape[1]), dtype=bool), np.ones((height, width), dtype=bool)
    for shift in range(2 * pixels + 1):  # in place: a copy for each shift takes gigabytes on large pictures
        rows &= padded[shift : shift + height]
    for shift in range(2 * pixels + 1):
        core &= rows[:, shift : shift + width]
    return core


def _draw_box(draw: ImageDraw.ImageDraw, box: Floats, color: Color, line: int, size: tuple[int, int]) -> None:
    """The box's outline, kept inside the picture: x2, y2 are edges, one beyond the last pixel."""
    corners = np.round(box).astype(int).reshape(2, 2)
    first = np.clip(corners[0], 0, np.array(size) - 1)
    last = np.maximum(np.minimum(corners[1], size) - 1, first)
    draw.rectangle((*first.tolist(), *last.tolist()), outline=color, width=line)


def _draw_texts(
    picture: Image.Image, boxes: Floats, texts: Sequence[str], colors: Sequence[Color], text_size: int | None
) -> None:
    """Each name at its box, on a background of its colour, where it covers no other name if it can."""
    draw, size = ImageDraw.Draw(picture), picture.size
    fitting = max(12, round(max(size) / (55 if len(texts) <= 25 else 75)))
    font = ImageFont.load_default(size=fitting if text_size is None else text_size)
    _, top, _, bottom = font.getbbox("Ag")  # one height for all, whatever their letters
    taken = np.zeros((0, 4))
    for box, text, color in zip(boxes, texts, colors, strict=True):
        text = _shortened(text, font, size[0] - 8)
        width, height = font.getlength(text) + 8, bottom - top + 6
        x, y = _free_position(box, width, height, taken, size)
        taken = np.vstack((taken, (x, y, x + width, y + height)))
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        draw.text((x + 4, y + 3 - top), text, text_color(color), font=font)


def _shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, most: float) -> str:
    """The text, its end cut off when it is wider than `most` pixels."""
    if font.getbbox(text)[2] <= most:
        return text
    while len(text) > 1 and font.getbbox(f"{text}...")[2] > most:
        text = text[:-1]
    return f"{text}..."


def _free_position(box: Floats, width: float, height: float, taken: Floats, size: tuple[int, int]) -> tuple[int, int]:
    """Top left corner of a text, always inside the picture: above the box, in its corners, or below it.

    taken: [T, 4], x1 y1 x2 y2 of the texts that are there.
    """
    x1, y1, x2, y2 = box
    corners = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x1, y2), (x1, y2 - height), (x2 - width, y2)]
    room = max(size[0] - width, 0), max(size[1] - height, 0)
    positions = np.clip(np.array(corners), 0, room).astype(int)
    low = np.maximum(positions[:, None], taken[:, :2])
    high = np.minimum(positions[:, None] + (width, height), taken[:, 2:])
    overlaps = np.prod(np.clip(high - low, 0, None), axis=2).sum(axis=1)
    x, y = positions[int(np.argmin(overlaps))].tolist()
    return x, y
