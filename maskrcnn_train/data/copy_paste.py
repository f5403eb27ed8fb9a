"""Copy-paste: objects of one training image on another, masks staying inside their boxes (Ghiasi et al. 2021)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn_train.data.coco import masks
from maskrcnn_train.data.targets import fit_to_masks, pack
from maskrcnn_train.data.transforms import MIN_SIDE
from maskrcnn_train.structures.batch import MaskCrops, Target
from maskrcnn_train.structures.corners import box_areas, common_part

Pixels = NDArray[np.uint8 | np.uint16]

SHARE = 0.5  # of the objects that are chosen, on average
INSIDE = 0.5  # an object with more than this share of its box in a chosen one's is pasted too


def paste_objects(
    pixels: Pixels, target: Target, donor_pixels: Pixels, donor: Target, rng: np.random.Generator
) -> Target:
    """Paste some of the donor's objects at their own position; changes `pixels`, [h, w, C], in place.

    Both targets have masks. Masks lose what a pasted object covers, boxes shrink to what is left, and objects that are
    covered completely are dropped. Pasted objects are cut at the border of the picture, and bring the ignored regions
    that lie on them.
    """
    own, pasted = _Objects(target), _Objects(donor)
    pasted = pasted.only(_choose(pasted.boxes, rng))
    pasted.clip(pixels.shape[0], pixels.shape[1])
    for (x0, y0, x1, y1), crop in zip(pasted.crop_boxes.tolist(), pasted.crops, strict=True):
        inside = crop > 0
        pixels[y0:y1, x0:x1][inside] = donor_pixels[y0:y1, x0:x1][inside]
        own.cover((x0, y0, x1, y1), inside)
    objects = [own.remaining(), pasted.remaining()]
    crop_boxes = np.concatenate([each.crop_boxes for each in objects])
    changed = target.copy()
    changed["boxes"] = torch.from_numpy(np.concatenate([each.boxes for each in objects]))
    changed["labels"] = torch.from_numpy(np.concatenate([each.labels for each in objects]))
    changed["masks"] = pack(own.crops + pasted.crops, crop_boxes, own.size)
    if "ignored" in donor:
        regions = donor["ignored"][torch.from_numpy(_lie_on(donor["ignored"].numpy(), pasted.boxes))]
        changed["ignored"] = torch.cat((target.get("ignored", regions[:0]), regions))
    return changed


def _choose(boxes: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random half of the objects, at least one, and the objects on them: bool [n].

    A facade pasted without its windows would teach that windows are background.
    """
    chosen = rng.random(len(boxes)) < SHARE
    if len(boxes) and not chosen.any():
        chosen[rng.integers(0, len(boxes))] = True
    return np.asarray(chosen | _lie_on(boxes, boxes[chosen]))


def _lie_on(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes [n, 4] have more than INSIDE of themselves in one of `others` [m, 4]: bool [n]."""
    shared = box_areas(common_part(boxes[:, None], others)).max(axis=1, initial=0)
    return np.asarray(shared > INSIDE * box_areas(boxes))


class _Objects:
    """The objects of a target, to be cut: boxes float32 [n, 4], crop_boxes int64 [n, 4] and their bitmaps, crops."""

    def __init__(self, target: Target) -> None:
        found = target["masks"]
        assert isinstance(found, MaskCrops), "copy-paste needs masks inside their boxes"
        self.boxes = target["boxes"].numpy().copy()
        self.labels = target["labels"].numpy()
        self.size = found.size
        self.crop_boxes = found.boxes.numpy().copy()
        self.crops = [found.crop(i).numpy() for i in range(len(found))]
        self.cut = np.zeros(len(self.boxes), dtype=bool)

    def only(self, which: NDArray[np.bool_]) -> _Objects:
        numbers = np.flatnonzero(which)
        self.boxes, self.labels, self.crop_boxes = self.boxes[numbers], self.labels[numbers], self.crop_boxes[numbers]
        self.crops, self.cut = [self.crops[i] for i in numbers.tolist()], self.cut[numbers]
        return self

    def clip(self, height: int, width: int) -> None:
        """Cut off what lies beyond a picture of this size."""
        limits = np.array([width, height, width, height])
        beyond = (self.crop_boxes > limits).any(axis=1)
        for i in np.flatnonzero(beyond).tolist():
            x0, y0, _, _ = self.crop_boxes[i].tolist()
            self.crops[i] = self.crops[i][: max(0, height - y0), : max(0, width - x0)]
        self.crop_boxes = np.minimum(self.crop_boxes, limits)
        self.boxes = np.minimum(self.boxes, limits.astype(np.float32))  # one may be wider than its mask
        self.cut |= beyond

    def cover(self, box: masks.Box, inside: NDArray[np.bool_]) -> None:
        """Remove from all masks what lies under `inside`, bool [h, w], the pixels of `box`."""
        common = common_part(self.crop_boxes, np.array(box))
        for i in np.flatnonzero(box_areas(common)).tolist():
            (x0, y0, x1, y1), (x, y) = common[i].tolist(), self.crop_boxes[i, :2].tolist()
            over = inside[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]]
            shared = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
            if (self.crops[i][shared] > 0)[over].any():
                if not self.cut[i]:
                    self.crops[i] = self.crops[i].copy()
                self.crops[i][shared][over] = 0
                self.cut[i] = True

    def remaining(self) -> _Objects:
        """The objects that are still visible, their boxes fitted to what is left."""
        kept = fit_to_masks(self.boxes, self.crops, self.crop_boxes, self.cut)
        kept &= (self.boxes[:, 2:] - self.boxes[:, :2] >= MIN_SIDE).all(axis=1)
        return self.only(kept)
