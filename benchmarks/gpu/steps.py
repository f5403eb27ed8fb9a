"""Training steps and evaluations of the sides, on the same images: ours, torchvision's, Detectron2's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from place import Place
from sides import coco_results
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn_train import build_loaders, build_model, load_config, training_step
from maskrcnn_train.data.packing import PackedBatch, pad_images
from maskrcnn_train.data.shapes import CATEGORIES
from maskrcnn_train.engine.optimizer import build_optimizer
from maskrcnn_train.engine.precision import to_device
from maskrcnn_train.model.modes import evaluating
from maskrcnn_train.model.paths import PathRule, path_for
from maskrcnn_train.prediction.predictor import Predictor
from maskrcnn_train.prediction.results import detect_all
from maskrcnn_train.structures.batch import ImageBatch, Target

LR = 1e-4
NUM_CLASSES = 7  # of the built-in shapes, with the background
Step = Callable[[], object]


@dataclass
class Batch:
    """Images and targets on the host, in pinned memory for a GPU, as the loader gives them."""

    images: ImageBatch
    targets: list[Target]

    def cut(self) -> list[Tensor]:
        """uint8 [3, h, w] of each image, without padding."""
        return [pixels[:, :h, :w] for pixels, (h, w) in zip(self.images.pixels, self.images.sizes, strict=True)]

    def first(self, size: int) -> Batch:
        images = ImageBatch(self.images.pixels[:size], self.images.sizes[:size], self.images.original_sizes[:size])
        return Batch(images, self.targets[:size])


def load(place: Place, size: int) -> Batch:
    """The first images of the built-in data."""
    train = build_loaders(load_config([*place.benchmark, "trainer.num_workers=0"])).train
    packed: Any = train.collate_fn(train.dataset.__getitems__([(0, position) for position in range(size)]))
    assert isinstance(packed, PackedBatch)
    wide = replace(packed, images=_widened(packed.images, place.image_width))
    return Batch(*(wide.pin_memory() if place.device == "cuda" else wide).unpack())


def _widened(images: ImageBatch, width: int) -> ImageBatch:
    """Each image with its mirror image at its right side, `width` pixels in all."""
    more = width - images.pixels.shape[3]
    wide = list(torch.cat((images.pixels, images.pixels.flip(3)[..., :more]), dim=3))
    return pad_images(wide, [(each.shape[1], each.shape[2]) for each in wide])


class Ours:
    def __init__(self, place: Place, rule: PathRule = path_for) -> None:
        self.config = load_config(place.benchmark)
        torch.manual_seed(0)
        model = build_model(self.config, NUM_CLASSES, path_for=rule)
        tame(model)
        self.model = to_device(model, place.torch_device, channels_last=self.config.trainer.channels_last)
        self.optimizer = build_optimizer(self.config.optimizer, self.model, images_per_step=2)
        for group in self.optimizer.param_groups:
            group["lr"] = LR

    def __call__(self, batch: Batch) -> Callable[[], dict[str, float]]:
        model = self.model.train()
        return lambda: training_step(model, self.optimizer, batch.images, batch.targets, self.config)

    def detection(self, batch: Batch) -> Step:
        """To boxes and masks on the device."""
        images, model = batch.images.to(next(self.model.parameters()).device), self.model.eval()
        return torch.no_grad()(lambda: model(images))

    def evaluation(self, batches: list[Batch]) -> Step:
        predictor = Predictor.from_model(self.model, self.config, list(CATEGORIES.values()))
        loader: Any = [(batch.images, batch.targets) for batch in batches]
        return lambda: detect_all(predictor, loader)


class Torchvision:
    """As its reference training does it; `amp`: with autocast in bf16."""

    def __init__(self, place: Place, *, amp: bool) -> None:
        torch.manual_seed(0)
        backbone = resnet_fpn_backbone(
            backbone_name=place.backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
        )
        model = MaskRCNN(backbone, num_classes=NUM_CLASSES, min_size=place.image_size, max_size=place.image_width)
        tame(model)
        self.device, self.amp = place.torch_device, amp
        self.model = model.to(self.device).train()
        self.optimizer = plain_sgd(self.model)

    def __call__(self, batch: Batch) -> Step:
        images = [pixels / 255 for pixels in batch.cut()]
        targets = [dense(each) for each in batch.targets]

        def step() -> None:
            inputs = [image.to(self.device) for image in images]
            objects = [{name: value.to(self.device) for name, value in each.items()} for each in targets]
            with _autocast(self.device, self.amp):
                loss = sum(self.model(inputs, objects).values())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

        return step

    def evaluation(self, batches: list[Batch]) -> Step:
        loader = [[pixels / 255 for pixels in batch.cut()] for batch in batches]

        def detect(images: list[Tensor]) -> Any:
            with torch.inference_mode(), _autocast(self.device, self.amp):
                return self.model([image.to(self.device) for image in images])

        def results_of(found: dict[str, Tensor]) -> list[Any]:
            return coco_results({name: value.cpu() for name, value in found.items()}, 0, range(1, NUM_CLASSES))

        return evaluation_step(self.model, loader, detect, results_of)


class Detectron2:
    """Its R50-FPN with autocast in bf16; the model moves images and objects itself."""

    def __init__(self, place: Place) -> None:
        from detectron2 import model_zoo
        from detectron2.modeling import build_model as build

        config = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
        config.MODEL.DEVICE, config.MODEL.WEIGHTS = str(place.torch_device), ""
        config.MODEL.PIXEL_STD = [57.375, 57.12, 58.395]
        config.MODEL.ROI_HEADS.NUM_CLASSES, config.INPUT.MASK_FORMAT = NUM_CLASSES - 1, "bitmask"
        torch.manual_seed(0)
        self.device, self.model = place.torch_device, build(config).train()
        tame(self.model)
        self.optimizer = plain_sgd(self.model)

    def __call__(self, batch: Batch) -> Step:
        from detectron2.structures import BitMasks, Boxes, Instances
        from detectron2.utils.events import EventStorage

        inputs = []
        for pixels, target, size in zip(batch.cut(), batch.targets, batch.images.sizes, strict=True):
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

    def evaluation(self, batches: list[Batch]) -> Step:
        from detectron2.evaluation.coco_evaluation import instances_to_coco_json

        loader = [
            [{"image": image.flip(0), "height": image.shape[1], "width": image.shape[2]} for image in batch.cut()]
            for batch in batches
        ]

        def detect(inputs: list[Any]) -> Any:
            with torch.inference_mode(), _autocast(self.device, True):
                return self.model(inputs)

        def results_of(found: dict[str, Any]) -> list[Any]:
            return list(instances_to_coco_json(found["instances"].to("cpu"), 0))

        return evaluation_step(self.model, loader, detect, results_of)


def _autocast(device: torch.device, enabled: bool) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


def evaluation_step(
    model: torch.nn.Module, loader: list[Any], detect: Callable[[Any], Any], results_of: Callable[[Any], list[Any]]
) -> Step:
    """detect: what is found on each image of a batch; results_of: COCO results of one. The model goes on training."""

    def step() -> object:
        with evaluating(model):
            return [result for batch in loader for found in detect(batch) for result in results_of(found)]

    return step


def tame(model: torch.nn.Module) -> None:
    """Let each block of a random ResNet-50 with frozen norms add little, or its maps grow from block to block until
    they overflow."""
    for name, buffer in model.named_buffers():
        if name.endswith(("bn3.weight", "conv3.norm.weight")):
            buffer.mul_(0.2)


def plain_sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=LR, momentum=0.9, weight_decay=1e-4)


def dense(target: Target) -> dict[str, Tensor]:
    """Boxes, labels, and masks of full size."""
    masks: Any = target["masks"]
    return {"boxes": target["boxes"], "labels": target["labels"], "masks": masks.dense()}


class Side(Protocol):
    """A model in training: `side(batch)` is a training step; `evaluation` is from images on the host to results with
    run-length codes."""

    def __call__(self, batch: Batch) -> Step: ...

    def evaluation(self, batches: list[Batch]) -> Step: ...


def sides(place: Place) -> dict[str, Callable[[], Side]]:
    """What builds each side; Detectron2 where it is installed."""
    found: dict[str, Callable[[], Side]] = {
        "ours": lambda: Ours(place),
        "torchvision as written": lambda: Torchvision(place, amp=False),
        "torchvision with AMP": lambda: Torchvision(place, amp=True),
    }
    if importlib.util.find_spec("detectron2") is not None:
        found["Detectron2 with AMP"] = lambda: Detectron2(place)
    return found
