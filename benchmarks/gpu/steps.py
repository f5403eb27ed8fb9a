"""Training steps of the sides, on the same images: ours, torchvision's, Detectron2's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from place import Place
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn_train import build_loaders, build_model, load_config, training_step
from maskrcnn_train.data.packing import PackedBatch
from maskrcnn_train.engine.optimizer import build_optimizer
from maskrcnn_train.engine.precision import to_device
from maskrcnn_train.model.paths import PathRule, path_for
from maskrcnn_train.structures.batch import ImageBatch, Target

LR = 1e-4
NUM_CLASSES = 7  # of the built-in shapes, with the background
Step = Callable[[], object]


@dataclass
class Batch:
    """Images and targets on the host, in pinned memory for a GPU, as the loader gives them."""

    images: ImageBatch
    targets: list[Target]

    def first(self, size: int) -> Batch:
        images = ImageBatch(self.images.pixels[:size], self.images.sizes[:size], self.images.original_sizes[:size])
        return Batch(images, self.targets[:size])


def load(place: Place, size: int) -> Batch:
    """The first images of the built-in data."""
    train = build_loaders(load_config([*place.benchmark, "trainer.num_workers=0"])).train
    packed: Any = train.collate_fn(train.dataset.__getitems__([(0, position) for position in range(size)]))
    assert isinstance(packed, PackedBatch)
    return Batch(*(packed.pin_memory() if place.device == "cuda" else packed).unpack())


class Ours:
    def __init__(self, place: Place, rule: PathRule = path_for) -> None:
        self.config = load_config(place.benchmark)
        torch.manual_seed(0)
        model = build_model(self.config, NUM_CLASSES, path_for=rule)
        self.model = to_device(model, place.torch_device, channels_last=self.config.trainer.channels_last)
        self.optimizer = build_optimizer(self.config.optimizer, self.model, images_per_step=2)
        for group in self.optimizer.param_groups:
            group["lr"] = LR

    def __call__(self, batch: Batch) -> Step:
        model = self.model.train()
        return lambda: training_step(model, self.optimizer, batch.images, batch.targets, self.config)

    def detection(self, batch: Batch) -> Step:
        images, model = batch.images.to(next(self.model.parameters()).device), self.model.eval()
        return torch.no_grad()(lambda: model(images))  # type: ignore[no-any-return]


class Torchvision:
    """As its reference training does it; `amp`: with autocast in bf16."""

    def __init__(self, place: Place, *, amp: bool) -> None:
        torch.manual_seed(0)
        backbone = resnet_fpn_backbone(
            backbone_name=place.backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
        )
        model = MaskRCNN(backbone, num_classes=NUM_CLASSES, min_size=place.image_size, max_size=place.image_size)
        self.device, self.amp = place.torch_device, amp
        self.model = model.to(self.device).train()
        self.optimizer = plain_sgd(self.model)

    def __call__(self, batch: Batch) -> Step:
        images = list(batch.images.pixels / 255)
        targets = [dense(each) for each in batch.targets]

        def step() -> None:
            inputs = [image.to(self.device) for image in images]
            objects = [{name: value.to(self.device) for name, value in each.items()} for each in targets]
            with torch.autocast(self.device.type, torch.bfloat16) if self.amp else nullcontext():
                loss = sum(self.model(inputs, objects).values())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

        return step


class Detectron2:
    """Its R50-FPN with autocast in bf16; the model moves images and objects itself."""

    def __init__(self, place: Place) -> None:
        from detectron2 import model_zoo
        from detectron2.modeling import build_model as build

        config = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
        config.MODEL.DEVICE, config.MODEL.WEIGHTS = str(place.torch_device), ""
        config.MODEL.ROI_HEADS.NUM_CLASSES, config.INPUT.MASK_FORMAT = NUM_CLASSES - 1, "bitmask"
        torch.manual_seed(0)
        self.device, self.model = place.torch_device, build(config).train()
        self.optimizer = plain_sgd(self.model)

    def __call__(self, batch: Batch) -> Step:
        from detectron2.structures import BitMasks, Boxes, Instances
        from detectron2.utils.events import EventStorage

        inputs = []
        for pixels, target, size in zip(batch.images.pixels, batch.targets, batch.images.sizes, strict=True):
            objects, whole = Instances(size), dense(target)
            objects.gt_boxes, objects.gt_masks = Boxes(whole["boxes"]), BitMasks(whole["masks"])
            objects.gt_classes = whole["labels"] - 1
            inputs.append({"image": pixels.flip(0), "instances": objects, "height": size[0], "width": size[1]})

        def step() -> None:
            with EventStorage(), torch.autocast(self.device.type, torch.bfloat16):
                loss = sum(self.model(inputs).values())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

        return step


def plain_sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=LR, momentum=0.9, weight_decay=1e-4)


def dense(target: Target) -> dict[str, Tensor]:
    """Boxes, labels, and masks of full size."""
    masks: Any = target["masks"]
    return {"boxes": target["boxes"], "labels": target["labels"], "masks": masks.dense()}


def sides(place: Place) -> dict[str, Callable[[], Callable[[Batch], Step]]]:
    """What builds each side; Detectron2 where it is installed."""
    found: dict[str, Callable[[], Callable[[Batch], Step]]] = {
        "ours": lambda: Ours(place),
        "torchvision as written": lambda: Torchvision(place, amp=False),
        "torchvision with AMP": lambda: Torchvision(place, amp=True),
    }
    if importlib.util.find_spec("detectron2") is not None:
        found["Detectron2 with AMP"] = lambda: Detectron2(place)
    return found
