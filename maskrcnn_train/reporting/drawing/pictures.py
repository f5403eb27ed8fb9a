"""Pictures of a validation: ground truth on the left, predictions on the right."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from maskrcnn_train.evaluation.coco.ground_truth import Coco
from maskrcnn_train.files import write_picture
from maskrcnn_train.reporting.drawing.objects import CroppedMask, draw_objects, side_by_side
from maskrcnn_train.structures.arrays import Bytes
from maskrcnn_train.structures.rle import compressed, decode_crop


@dataclass
class Objects:
    """The objects to draw on one image.

    boxes: [N, 4], x1 y1 x2 y2, pixels of the image. labels: 1..K. scores: [N], absent for ground truth.
    masks: (x0, y0, bitmap uint8 [h, w]), absent for boxes only.
    """

    boxes: list[list[float]]
    labels: list[int]
    scores: list[float] | None = None
    masks: list[CroppedMask] | None = None


def objects_from_coco(
    annotations: Iterable[Coco], *, labels: Mapping[int, int], size: tuple[int, int], threshold: float = 0.0
) -> Objects:
    """Objects of one image from COCO annotations or results, those scored below `threshold` left out.

    labels: category id -> label. size: (height, width) of the image. Masks may be polygons or RLE;
    when some object has none, only boxes are drawn.
    """
    kept = [item for item in annotations if item.get("score", 1.0) >= threshold]
    with_masks = all(item.get("segmentation") for item in kept)
    return Objects(
        boxes=[[x, y, x + width, y + height] for x, y, width, height in (item["bbox"] for item in kept)],
        labels=[labels[item["category_id"]] for item in kept],
        scores=[float(item["score"]) for item in kept] if kept and all("score" in item for item in kept) else None,
        masks=[decode_crop(compressed(item["segmentation"], size)) for item in kept] if with_masks else None,
    )


def draw_validation(
    run_dir: Path, samples: Mapping[str, tuple[Bytes, Objects, Objects]], *, names: Sequence[str]
) -> list[tuple[Path, Image.Image]]:
    """Write `pictures/*.jpg` for (image uint8 [H, W, 3], ground truth, prediction); returns paths and pictures.

    samples: by the stem of their picture, so that a later evaluation replaces them. names: of the classes.
    """
    written = []
    for stem, (image, truth, prediction) in samples.items():
        picture = draw_pair(image, truth, prediction, names)
        written.append((write_picture(run_dir / "pictures" / f"{stem}.jpg", picture, quality=88), picture))
    return written


def draw_pair(image: Bytes, truth: Objects, prediction: Objects, names: Sequence[str]) -> Image.Image:
    """Ground truth | prediction of one image, with the number of objects of each."""
    left, right = (draw_objects(image, names=names, **vars(side)) for side in (truth, prediction))
    captions = (f"ground truth ({len(truth.labels)})", f"prediction ({len(prediction.labels)})")
    return side_by_side(left, right, captions)
