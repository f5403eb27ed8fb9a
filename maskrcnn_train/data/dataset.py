"""A torch data set: resized images with boxes, labels and compact masks, and the COCO ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from maskrcnn_train.data.channels import AnyImage
from maskrcnn_train.data.coco.index import NO_MASK, RLE
from maskrcnn_train.data.copy_paste import paste_objects
from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.pixels import RGB, PixelReader
from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.data.targets import build_target
from maskrcnn_train.data.tile_layout import TileLayout, image_repeats, lay_out
from maskrcnn_train.data.transforms import Transform
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainTileConfig
from maskrcnn_train.structures.arrays import Flags
from maskrcnn_train.structures.batch import Target
from maskrcnn_train.structures.classes import ClassMap

KEPT_BYTES = 2**28  # of decoded images that a process keeps to cut tiles from
# position, or for training (epoch, position), (epoch, position, repeat) or (epoch, position, repeat, percent of size)
Key = int | tuple[int, ...]


@dataclass
class Sample:
    """One image for the loader. faults: messages about images that were unreadable.

    pixels: uint8 or uint16 [C, h, w]; None if the image was unreadable and must not be replaced.
    """

    pixels: Tensor | None
    target: Target
    original_size: tuple[int, int]
    faults: list[str] = field(default_factory=list)


@dataclass(eq=False, kw_only=True)
class CocoDataset(Dataset[tuple[Tensor, Target, tuple[int, int]]]):
    """Images of one split, or tiles of them, resized and augmented.

    An item is (pixels [C, h, w] of the reader's type, target, (height, width) as decoded). Its key is one of `Key`:
    augmentation depends on the seed and on this key only.
    tile: sizes of tiles, whose `size` may be None. skip_bad_images: an unreadable training image is replaced by the
    next; without it, it raises ImageError.
    """

    split: Split
    classes: ClassMap
    transform: Transform
    reader: PixelReader = RGB
    with_masks: bool = True
    seed: int = 0
    keep_empty: bool = True
    skip_bad_images: bool = False
    tile: TrainTileConfig | None = None

    def __post_init__(self) -> None:
        if not self.keep_empty:
            self.split = self.split.with_objects()
        self.rows = self.split.rows
        self.layout: TileLayout | None = None
        if self.tile is not None and self.tile.size is not None:
            self.layout = lay_out(self.split, self.tile)
        self._donors = np.arange(len(self)) if self.layout is None else np.flatnonzero(self.layout.num_objects)
        self._decoded: dict[int, AnyImage] = {}  # of tiles, the last used last

    def __len__(self) -> int:
        return len(self.rows) if self.layout is None else len(self.layout)

    def share(self, rank: int, world_size: int) -> Sequence[int]:
        """The positions that one of several processes evaluates, all tiles of an image by the same."""
        if self.layout is None:
            return range(len(self))[rank::world_size]
        return np.flatnonzero(np.isin(self.layout.rows, self.rows[rank::world_size])).tolist()

    def is_wide(self) -> Flags:
        """Which items are at least as wide as they are high: bool [n]."""
        sizes = self.split.index.image_sizes[self.rows] if self.layout is None else self.layout.sizes
        return np.asarray(sizes[:, 1] >= sizes[:, 0])

    def repeats(self, threshold: float) -> NDArray[np.float64] | None:
        """How often each item comes in an epoch: so that rare classes are seen, and few empty tiles; float [n].

        None: once each.
        """
        if self.layout is not None:
            return self.layout.repeats(threshold)
        if threshold == 0:
            return None
        return image_repeats(self.split, threshold)

    def image_path(self, number: int) -> str:
        """Of image `number` of the split, whether or not it is cut into tiles."""
        return str(self.split.images / self.split.index.file_name(int(self.rows[number])))

    def title(self, position: int) -> str:
        """The name of an item's file, and where in it the tile is."""
        if self.layout is None:
            return Path(self.image_path(position)).name
        (x, y, _, _), _ = self.layout.tile(position)
        return f"{Path(self.split.index.file_name(int(self.layout.rows[position]))).name} from x {x}, y {y}"

    def __getitem__(self, key: Key) -> tuple[Tensor, Target, tuple[int, int]]:
        sample = self._load(key)
        assert sample.pixels is not None
        return sample.pixels, sample.target, sample.original_size

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample] | UserError:
        """The samples of one batch; called by torch's DataLoader.

        A UserError is returned: torch would add a traceback to its message on the way out of a worker.
        """
        try:
            return [self._load_or_skip(key) if self.skip_bad_images else self._load(key) for key in keys]
        except UserError as error:
            return error

    def _load(self, key: Key) -> Sample:
        if isinstance(key, int):
            pixels, target, size = self._read(key, self.transform, None)
            return Sample(torch.from_numpy(pixels).permute(2, 0, 1), target, size)
        rng, transform = np.random.default_rng([self.seed, *key[:3]]), self.transform.scaled(*key[3:])
        pixels, target, size = self._read(key[1], transform, rng)
        sample = Sample(None, target, size)
        if self.with_masks and rng.random() < transform.copy_paste:
            sample.target = self._paste(pixels, target, transform, rng, sample.faults)
        sample.pixels = torch.from_numpy(pixels).permute(2, 0, 1)
        return sample

    def _read(
        self, position: int, transform: Transform, rng: np.random.Generator | None
    ) -> tuple[NDArray[Any], Target, tuple[int, int]]:
        """Pixels [h, w, C] and objects in network pixels, and (height, width) as decoded."""
        index = self.split.index
        if self.layout is None:
            row, min_visible = int(self.rows[position]), 0.0
            size = index.size(row)
            geometry = transform.geometry(size, rng)
            # only training takes the faster way, which changes pixels a little: scores are of what `predict` sees
            smallest = None if rng is None else geometry.scaled
            image = self.reader.read(self.split.images / index.file_name(row), expected=size, smallest=smallest)
        else:  # a tile is cut out before it is resized, as `predict` does it
            row, min_visible = int(self.layout.rows[position]), self.layout.section.min_visible
            tile = self.layout.tile(position)
            x0, y0, x1, y1 = tile[0]
            size = y1 - y0, x1 - x0
            geometry = replace(transform.geometry(size, rng), tile=tile)
            image = self._whole(row).crop(tile[0])
        visible = transform.colors(geometry.resize(image), rng)
        target = build_target(
            index, self.split.labels, row, geometry, with_masks=self.with_masks, min_visible=min_visible
        )
        if geometry.tile is not None:
            target["tile"] = geometry.tile
        return geometry.window(visible, transform.fill), target, size

    def _whole(self, row: int) -> AnyImage:
        """The image of a tile; the last few are kept, for their next tiles."""
        kept, index = self._decoded, self.split.index
        image = kept.pop(row, None)
        if image is None:
            image = self.reader.read(self.split.images / index.file_name(row), expected=index.size(row))
        a_pixel = max(4, self.reader.channels * self.reader.dtype.itemsize)  # Pillow keeps R G B in 4 bytes
        while kept and a_pixel * sum(each.width * each.height for each in (image, *kept.values())) > KEPT_BYTES:
            del kept[next(iter(kept))]
        kept[row] = image
        return image

    def _paste(
        self, pixels: NDArray[Any], target: Target, transform: Transform, rng: np.random.Generator, faults: list[str]
    ) -> Target:
        """Paste objects of another image, drawn at random; `pixels` changes in place."""
        try:
            donor_pixels, donor, _ = self._read(int(self._donors[rng.integers(0, len(self._donors))]), transform, rng)
        except ImageError as error:
            if not self.skip_bad_images:
                raise
            faults.append(str(error))
            return target
        return paste_objects(pixels, target, donor_pixels, donor, rng)

    def _load_or_skip(self, key: Key) -> Sample:
        """The sample, or in training the next readable one. Validation images are never replaced."""
        faults: list[str] = []
        for step in range(len(self)):
            try:
                sample = self._load(key if isinstance(key, int) else (key[0], (key[1] + step) % len(self), *key[2:]))
            except ImageError as error:
                faults.append(str(error))
                if isinstance(key, tuple):
                    continue
                sample = Sample(None, Target(), (0, 0))
            sample.faults = faults + sample.faults
            return sample
        raise ImageError(f"none of the {len(self)} images of {self.split.name} can be read, first: {faults[0]}")

    def ground_truth(self) -> dict[str, Any]:
        """The checked split in COCO's format: in image pixels, with crowd regions.

        Boxes, image and annotation ids are those of the file, category ids those of the training classes.
        Segmentations are RLE with `counts` as text, and absent without masks. COCO's evaluators read annotation id 0
        as "unmatched": give them `complete_ground_truth` of it.
        """
        index = self.split.index
        annotations = []
        for row in self.rows.tolist():
            own = index.annotations(row)
            for annotation in (own.start + np.flatnonzero(self.split.labels[own] > 0)).tolist():
                item = index.annotation_entry(annotation)
                item["category_id"] = self.classes.id_of(int(self.split.labels[annotation]))
                if self.with_masks:
                    item["segmentation"] = self._encoded(annotation, index.size(row))
                annotations.append(item)
        images = [index.image_entry(row) for row in self.rows.tolist()]
        categories = [{"id": number, "name": name} for number, name in self.classes.name_of_id.items()]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def _encoded(self, annotation: int, size: tuple[int, int]) -> dict[str, Any]:
        index = self.split.index
        if index.kinds[annotation] == RLE:
            encoded = coco_mask.frPyObjects({"counts": index.counts(annotation).tolist(), "size": list(size)}, *size)
        elif index.kinds[annotation] == NO_MASK:  # a crowd region known by its box only
            encoded = coco_mask.frPyObjects(np.array([index.boxes[annotation]]), *size)[0]
        else:
            encoded = coco_mask.merge(coco_mask.frPyObjects(index.parts(annotation), *size))
        return {"size": list(size), "counts": encoded["counts"].decode()}
