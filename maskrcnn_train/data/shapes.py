"""The built-in data set: textured geometric shapes, drawn from a seed and written once as plain COCO.

Six classes told apart by geometry alone; colours, textures, background and clutter are random. Shapes overlap, leave
the image, and are labelled by what is visible of them, as polygons or RLE, so that both readers are used.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from maskrcnn_train.data.coco.masks import Box, polygon_crop
from maskrcnn_train.files import folder_written_aside
from maskrcnn_train.settings.schema import ShapesConfig

FORMAT_VERSION = 3  # part of the folder's name: raise it whenever the pixels or the JSON change
SPLITS = ("train", "val", "test")
CATEGORIES = {1: "ellipse", 2: "rectangle", 3: "triangle", 5: "star", 8: "ring", 9: "cross"}  # gaps on purpose

EMPTY_FRACTION = 0.08  # images without objects
MAX_OBJECTS = 5
SIZE_RANGE = (0.24, 0.64)  # diameter of the circle around a shape / image side, log-uniform
TILT = math.radians(35)  # either way
MIN_DIAMETER = 14  # pixels; below it a person no longer tells star from cross
MIN_VISIBLE_FRACTION, MIN_VISIBLE_PIXELS = 0.5, 30
MIN_CONTRAST = 55.0  # RGB distance of fill and background, 0 to 255, channels weighed as by the eye
SUPERSAMPLING = 4

Array = NDArray[np.floating[Any]]
Points = NDArray[np.float64]
Mask = NDArray[np.bool_]
Generator = np.random.Generator


@dataclass
class Shape:
    """One object of an image."""

    category_id: int
    outlines: list[Points]  # each [P, 2], x y in pixels: the outer border, then holes
    full: Mask  # [S, S], as if nothing lay on top of it
    visible: Mask  # [S, S]


def ensure_shapes(section: ShapesConfig, root: Path) -> Path:
    """Return the folder of this data set below `root`, drawing it first if it is not there.

    It holds `{train,val,test}/NNNNNN.jpg` and `annotations/{train,val,test}.json`, and appears complete, in one
    rename: several processes may ask at once.

    >>> folder = ensure_shapes(ShapesConfig(num_train=8, num_val=2, num_test=2, image_size=64, seed=0), Path("data"))
    """
    folder = root / folder_name(section)
    if folder.is_dir():
        return folder
    with folder_written_aside(folder) as unfinished:
        for split, count in zip(SPLITS, (section.num_train, section.num_val, section.num_test), strict=True):
            write_split(section, split, count, unfinished)
    return folder


def folder_name(section: ShapesConfig) -> str:
    """Size and seed to be read by people, and a hash over every parameter and the format."""
    parameters = json.dumps([FORMAT_VERSION, asdict(section)], sort_keys=True)
    digest = hashlib.sha256(parameters.encode()).hexdigest()[:8]
    return f"{section.image_size}px-{section.num_train}train-seed{section.seed}-{digest}"


def write_split(section: ShapesConfig, split: str, count: int, folder: Path) -> None:
    """Draw the images of one split and write them with their COCO JSON."""
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, count + 1):
        rng = np.random.default_rng([section.seed, SPLITS.index(split), image_id])
        pixels, shapes = draw_image(rng, section.image_size)
        name = f"{image_id:06d}.jpg"
        Image.fromarray(pixels).save(folder / split / name, quality=95, subsampling=0)
        images.append({"id": image_id, "file_name": name, "width": section.image_size, "height": section.image_size})
        annotations += [annotation(shape, len(annotations) + k, image_id) for k, shape in enumerate(shapes, start=1)]
    info = {"description": "maskrcnn_train data=shapes", "version": str(FORMAT_VERSION), **asdict(section)}
    categories = [{"id": id_, "name": name, "supercategory": "shape"} for id_, name in CATEGORIES.items()]
    document = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def annotation(shape: Shape, annotation_id: int, image_id: int) -> dict[str, Any]:
    """The COCO entry of one shape; bbox (x y w h, pixels) and area are those of the visible mask.

    Its segmentation is the outline where that says exactly what is visible, otherwise the compressed RLE.
    """
    rle = coco_mask.encode(np.asfortranarray(shape.visible, dtype=np.uint8))
    outer, *holes = shape.outlines
    inside = bool(outer.min() >= 0 and outer.max() <= len(shape.full))
    polygon = inside and not holes and np.array_equal(shape.full, shape.visible)
    code = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": shape.category_id,
        "iscrowd": 0,
        "bbox": [float(value) for value in coco_mask.toBbox(rle)],
        "area": int(coco_mask.area(rle)),
        "segmentation": [outer.ravel().tolist()] if polygon else code,
    }


def draw_image(rng: Generator, size: int) -> tuple[NDArray[np.uint8], list[Shape]]:
    """Draw one image: pixels uint8 [size, size, 3] and the shapes in it, bottom to top."""
    shapes = place_shapes(rng, size)
    canvas = background(rng, size)
    for _ in range(rng.integers(1, 5)):
        paint(canvas, clutter_coverage(rng, size), rng.uniform(0, 255, 3).astype(np.float32))
    for shape in shapes:
        outer = shape.outlines[0]
        around = np.clip([outer.min(axis=0) - 3, outer.max(axis=0) + 4], 0, size).astype(int)  # three pixels more
        x0, y0, x1, y1 = box = tuple(around.ravel().tolist())
        patch = canvas[y0:y1, x0:x1]
        first, second = contrasting_colors(rng, patch)
        fill = first + texture(rng, size)[y0:y1, x0:x1] * (second - first)
        paint(patch, coverage(shape.outlines, size, box), fill)
    canvas += rng.uniform(1, 7) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), shapes


def place_shapes(rng: Generator, size: int) -> list[Shape]:
    """Lay shapes on each other, keeping enough of each in sight; some images stay empty."""
    shapes: list[Shape] = []
    count = 0 if rng.random() < EMPTY_FRACTION else int(rng.integers(1, MAX_OBJECTS + 1))
    for _ in range(4 * count):  # a shape that hides too much is drawn again, but not endlessly
        shape = random_shape(rng, size)
        left = [below.visible & ~shape.full for below in shapes]
        if all(is_recognisable(each, seen) for each, seen in zip([*shapes, shape], [*left, shape.full], strict=True)):
            for below, seen in zip(shapes, left, strict=True):
                below.visible = seen
            shapes.append(shape)
        if len(shapes) == count:
            break
    return shapes


def random_shape(rng: Generator, size: int) -> Shape:
    """One shape of random class, diameter, elongation, rotation and position; it may cross the border."""
    category_id = int(rng.choice(list(CATEGORIES)))
    low = max(SIZE_RANGE[0] * size, MIN_DIAMETER)
    diameter = math.exp(rng.uniform(math.log(low), math.log(max(SIZE_RANGE[1] * size, low))))
    angle = rng.uniform(-TILT, TILT)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    transform = diameter / 2 * np.diag([1.0, rng.uniform(0.7, 1.0)]) @ rotation
    center = rng.uniform(0.05 * size, 0.95 * size, 2)
    # rounded here, so that mask and polygon in the JSON come from the same numbers
    outlines = [np.round(unit @ transform + center, 2) for unit in unit_outlines(CATEGORIES[category_id])]
    full = rasterize(outlines, size, (0, 0, size, size))
    return Shape(category_id, outlines, full=full, visible=full)


def unit_outlines(name: str) -> list[Points]:
    """Border lines of a class inside the unit circle, each [P, 2]: the outer one, then holes."""
    if name == "ring":
        return [polar([1.0] * 48), polar([0.48] * 48)]
    if name == "cross":
        tip: Array = np.array([[0.36, 0.36], [1.0, 0.36], [1.0, -0.36]]) / math.hypot(1.0, 0.36)
        quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
        return [np.concatenate([tip @ np.linalg.matrix_power(quarter, k) for k in range(4)])]
    radii = {"ellipse": [1.0] * 48, "rectangle": [1.0] * 4, "triangle": [1.0] * 3, "star": [1.0, 0.5] * 5}[name]
    return [polar(radii)]


def polar(radii: list[float]) -> Points:
    """Points [P, 2] at equal angles around the origin; the half step sets a square parallel to the axes."""
    angles = (np.arange(len(radii)) + 0.5) * 2 * math.pi / len(radii)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def is_recognisable(shape: Shape, seen: Mask) -> bool:
    """Whether `seen` [S, S] is enough of the shape, counting parts outside the image as hidden."""
    areas = []
    for outline in shape.outlines:
        (x, y), (next_x, next_y) = outline.T, np.roll(outline, -1, axis=0).T
        areas.append(float(abs((x * next_y - y * next_x).sum()) / 2))
    return int(seen.sum()) >= max(MIN_VISIBLE_FRACTION * (areas[0] - sum(areas[1:])), MIN_VISIBLE_PIXELS)


def rasterize(outlines: list[Points], size: int, box: Box) -> Mask:
    """Fill the first outline except the others, by COCO's own polygon rule: bool [h, w] of `box`."""
    layers = [polygon_crop([line.ravel()], (size, size), box) for line in outlines]
    return np.asarray(layers[0] > sum(layers[1:]))


def coverage(outlines: list[Points], size: int, box: Box) -> Array:
    """Share of every pixel of `box` that lies inside the shape, 0 to 1, [h, w]: its anti-aliased edge."""
    x0, y0, x1, y1 = (side * SUPERSAMPLING for side in box)
    fine = rasterize([line * SUPERSAMPLING for line in outlines], size * SUPERSAMPLING, (x0, y0, x1, y1))
    return shrink(Image.fromarray(fine))


def shrink(fine: Image.Image) -> Array:
    """A supersampled black and white image as coverage, 0 to 1."""
    return np.asarray(fine.convert("L").reduce(SUPERSAMPLING), dtype=np.float32) / 255


def paint(canvas: Array, cover: Array, fill: Array) -> None:
    """Blend `fill`, [3] or [h, w, 3], into the canvas [h, w, 3] in place, as much as `cover` [h, w] says."""
    canvas += cover[..., None] * (fill - canvas)


def background(rng: Generator, size: int) -> Array:
    """Coarse colour noise under a faint texture, float [size, size, 3] of 0 to 255."""
    base, strength = rng.uniform(20, 235, 3), rng.uniform(0.1, 0.45)
    clouds = strength * (smooth_noise(rng, size, channels=3) - 127.5)
    grain = rng.uniform(0, 30) * (texture(rng, size) - 0.5)
    return np.asarray(np.clip(base + clouds + grain, 0, 255), dtype=np.float32)


def smooth_noise(rng: Generator, size: int, channels: int) -> Array:
    """Random clouds a few cells across, float [size, size, channels] of 0 to 255."""
    cells = int(rng.integers(2, 8))
    coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    clouds = Image.fromarray(coarse[..., :channels].squeeze()).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(clouds, dtype=np.float32).reshape(size, size, channels)


def texture(rng: Generator, size: int) -> Array:
    """A random pattern of 0 to 1, [size, size, 1]: flat, gradient, stripes, checker or clouds."""
    kind = rng.choice(["flat", "gradient", "stripes", "checker", "clouds"])
    if kind == "clouds":
        return np.asarray(smooth_noise(rng, size, channels=1) / 255)
    angle, phase = rng.uniform(0, 2 * math.pi, 2).astype(np.float32)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if kind == "flat":
        pattern = np.zeros_like(x)
    elif kind == "gradient":
        pattern = 0.5 + 0.5 * np.sin(along * 2 / size + phase)
    else:
        frequency = np.float32(2 * math.pi / max(4.0, rng.uniform(0.03, 0.1) * size))
        waves = np.sin(along * frequency + phase)
        pattern = 0.5 + 2 * (waves if kind == "stripes" else waves * np.sin(across * frequency + phase))
    return np.asarray(np.clip(pattern, 0, 1)[..., None], dtype=np.float32)


def clutter_coverage(rng: Generator, size: int) -> Array:
    """Lines, arcs and dots that belong to no class, too thin or too small to be one, [size, size]."""
    fine = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    pen = ImageDraw.Draw(fine)
    for _ in range(rng.integers(1, 4)):
        x0, y0, x1, y1 = (rng.uniform(-0.1, 1.1, 4) * fine.width).tolist()
        width = int(rng.uniform(0.7, 2.0) * SUPERSAMPLING)
        kind = rng.choice(["line", "arc", "dot"])
        if kind == "line":
            pen.line((x0, y0, x1, y1), fill=255, width=width)
        elif kind == "arc":
            start, radius = rng.uniform(0, 360), rng.uniform(0.06, 0.5) * fine.width
            corners = (x0 - radius, y0 - radius, x0 + radius, y0 + radius)
            pen.arc(corners, start, start + rng.uniform(40, 160), fill=255, width=width)
        else:
            pen.ellipse((x0, y0, x0 + 2 * width, y0 + rng.uniform(1, 2) * width), fill=255)
    return shrink(fine)


def contrasting_colors(rng: Generator, patch: Array) -> tuple[Array, Array]:
    """Two related fill colours [3] that, like their mixtures, stand out from a patch [h, w, 3] of the canvas."""
    step = 1 + max(patch.shape) // 12  # some hundred of its pixels are enough
    around = patch[::step, ::step].reshape(-1, 3)
    first = rng.uniform(0, 255, (24, 3))
    second = np.clip(first + rng.normal(0, 55, first.shape), 0, 255)
    mixtures = np.stack([first, (first + second) / 2, second], axis=1)  # [24, 3 mixtures, 3 channels]
    distance = np.sqrt((mixtures[:, :, None] - around) ** 2 @ (0.3, 0.59, 0.11))  # [24, 3, N]
    contrast = np.quantile(distance, 0.1, axis=2).min(axis=1)
    best = int(np.argmax(np.minimum(contrast, MIN_CONTRAST)))  # the first that is enough, else the best
    return first[best].astype(np.float32), second[best].astype(np.float32)
