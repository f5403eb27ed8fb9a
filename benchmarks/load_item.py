"""Images of 1024 px with about 31 objects to what a model takes at 800 px, masks included, in one process.

Sides: torchvision as a person writes it (CocoDetection, wrap_dataset_for_transforms_v2, v2 transforms, then the resize
inside its model, GeneralizedRCNNTransform); ours (`CocoDataset`, packed, normalised as our model does it). The same
images, mirrored at random on both sides. Then the memory of the masks of a batch: crops inside boxes against dense
uint8 masks, at the mean number of objects and by number of objects.

    MASKRCNN_TRAIN_BENCH_DATA=FOLDER python benchmarks/load_item.py [--rounds 5] [--images 16]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from sides import data_root, in_turn, machine, print_ratios
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from maskrcnn_train import load_config
from maskrcnn_train.data.dataset import CocoDataset
from maskrcnn_train.data.loading import build_dataset
from maskrcnn_train.data.packing import PackedBatch, pack
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.model.inputs import normalize_batch
from maskrcnn_train.model.kept import Kept
from maskrcnn_train.structures.batch import MaskCrops

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
MB = 2**20


def our_dataset() -> CocoDataset:
    config = load_config(["data=roboflow", f"data.root={data_root()}", "augmentation=flip"])
    splits = read_splits(config)
    return build_dataset(config, splits.train, splits.classes, training=True)


def spread(length: int, count: int) -> list[int]:
    """`count` positions from all over a data set."""
    return [position * length // count for position in range(count)]


class Ours:
    def __init__(self, count: int) -> None:
        self.data, self.epoch = our_dataset(), 0
        self.positions = spread(len(self.data), count)
        self.mean, self.std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
        self.kept: Kept[tuple[torch.Tensor, torch.Tensor]] = Kept()

    def __call__(self) -> None:
        self.epoch += 1
        for position in self.positions:
            batch = pack(self.data.__getitems__([(self.epoch, position)]))
            assert isinstance(batch, PackedBatch)
            images, _ = batch.unpack()
            normalize_batch(images, self.mean, self.std, torch.channels_last, self.kept)


class Torchvision:
    def __init__(self, count: int) -> None:
        root = data_root() / "train"
        steps = [v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        plain = CocoDetection(str(root), str(root / "_annotations.coco.json"), transforms=v2.Compose(steps))
        self.data = wrap_dataset_for_transforms_v2(plain, target_keys=["boxes", "labels", "masks"])
        self.resize = GeneralizedRCNNTransform(800, 1333, MEAN, STD)
        self.positions = spread(len(self.data), count)

    def __call__(self) -> None:
        for position in self.positions:
            image, target = self.data[position]
            self.resize([image], [target])


def print_memory(data: CocoDataset) -> None:
    """Bytes of the masks of each image, as crops and dense, by number of objects."""
    counts, crops, dense = [], [], []
    for position in range(len(data)):
        masks = data[position][1]["masks"]
        assert isinstance(masks, MaskCrops)
        counts.append(len(masks))
        crops.append(sum(part.numel() * part.element_size() for part in (masks.pixels, masks.boxes, masks.offsets)))
        dense.append(len(masks) * masks.size[0] * masks.size[1])
    mean = statistics.mean(counts)
    print(
        f"masks of an image, {mean:.0f} objects on average: crops {np.mean(crops) / MB:.2f} MB, dense "
        f"{np.mean(dense) / MB:.2f} MB, {np.mean(crops) / np.mean(dense):.3f} of it"
    )
    for low, high in ((1, 15), (16, 30), (31, 45), (46, 1000)):
        rows = [i for i, count in enumerate(counts) if low <= count <= high]
        if rows:
            ours, theirs = (np.mean([side[i] for i in rows]) / MB for side in (crops, dense))
            objects = np.mean([counts[i] for i in rows])
            print(f"  {objects:5.1f} objects ({len(rows)} images): crops {ours:.2f} MB, dense {theirs:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="of torch; 1 as in a worker process")
    arguments = parser.parse_args()
    data_root()
    torch.set_num_threads(arguments.threads)
    print(machine())
    print(f"seconds for {arguments.images} images")
    sides: dict[str, Callable[[], object]] = {
        "torchvision": Torchvision(arguments.images),
        "ours": Ours(arguments.images),
    }
    print_ratios(in_turn(sides, arguments.rounds), "ours")
    print_memory(our_dataset())


if __name__ == "__main__":
    main()
