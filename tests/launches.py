"""Counts what a GPU would be asked to do: launches, and reads that make the host wait for it.

PYTHONPATH=tests python tests/launches.py      # a training step: ours against torchvision's, on a processor
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn_train import build_model, load_config
from maskrcnn_train.engine.optimizer import build_optimizer
from maskrcnn_train.engine.step import training_step
from maskrcnn_train.model import mask_rcnn
from maskrcnn_train.model.fixed_shape import mask_targets
from maskrcnn_train.model.mask_targets import crops_from_dense
from maskrcnn_train.model.paths import PathRule, always_fixed, path_for
from maskrcnn_train.structures.batch import ImageBatch, Target

NOT_LAUNCHED = ("empty", "detach", "lift_fresh", "_unsafe_view", "_reshape_alias", "_local_scalar", "scalar_tensor")
WAITS = ("nms", "_local_scalar_dense", "nonzero", "_unique", "unique", "masked_select", "equal", "is_nonzero")
READS = ("tolist", "numpy", "cpu")
SMALL = ["backbone=resnet18", "backbone.fpn_channels=16", "rpn.nms.pre_train=100", "roi_head.sampling.batch_size=32"]
SMALL += ["roi_head.conv_dim=8", "roi_head.fc_dim=16", "mask_head.conv_dim=8"]


class Launches(TorchDispatchMode):
    """operations: those that a GPU would run as kernels or copies, views left out; waits: those among them whose result
    or shape the host has to read. Also what never reaches a kernel: `tolist` and its like."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.reads = _Reads(self.waits)

    def __enter__(self) -> Launches:
        self.reads.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.reads.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and not name.startswith(NOT_LAUNCHED):
            self.operations[name] += 1
        counts_rows = name == "repeat_interleave" and "output_size" not in (kwargs or {})
        if name in WAITS or counts_rows or (name.startswith("index") and _takes_flags(args)):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS:
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def _takes_flags(args: Any) -> bool:
    """Whether an indexing picks rows by flags; where it sets them to one number, it is a `masked_fill`."""
    if len(args) > 2 and args[2].numel() == 1:
        return False
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else []
    return any(isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in indices)


def crowded_batch(counts: list[int], side: int = 128, seed: int = 0) -> tuple[ImageBatch, list[Target]]:
    """Square images of noise with `counts` round objects of many sizes, with compact masks, labels 1..3."""
    generator = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    targets: list[Target] = []
    for image, count in enumerate(counts):
        centers = torch.rand((count, 2), generator=generator) * side
        radii = torch.rand(count, generator=generator) ** 2 * side / 4 + 3
        squares = (ys - centers[:, :1, None]) ** 2 + (xs - centers[:, 1:, None]) ** 2
        crops = crops_from_dense(squares < radii[:, None, None] ** 2)
        labels = torch.arange(count) % 3 + 1
        targets.append({"boxes": crops.boxes.float(), "labels": labels, "masks": crops, "image_id": image})
    pixels = torch.randint(0, 256, (len(counts), 3, side, side), dtype=torch.uint8, generator=generator)
    return ImageBatch(pixels, [(side, side)] * len(counts), [(side, side)] * len(counts)), targets


def our_step(counts: list[int], *overrides: str, path_for: PathRule = always_fixed) -> Callable[[], object]:
    """A training step of R50-FPN at fp32 on a GPU's path, on images with these numbers of objects."""
    frozen = ["backbone.norm=frozen", "backbone.trainable_stages=3"]  # on both sides, as with pretrained weights
    sizes = ["data.min_size=128", "data.max_size=128"]
    config = load_config(["trainer.precision=fp32", *sizes, *overrides, *frozen])
    torch.manual_seed(0)
    model = build_model(config, 4, path_for=path_for).train().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config.optimizer, model, images_per_step=len(counts))
    images, targets = crowded_batch(counts)
    return lambda: training_step(model, optimizer, images, targets, config)


def torchvision_step(counts: list[int]) -> Callable[[], object]:
    """The same step as torchvision's users write it."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    model = MaskRCNN(backbone, num_classes=4, min_size=128, max_size=128)
    parameters = model.train().parameters()
    # `foreach` is SGD's own choice on a GPU
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4, foreach=True)
    images, targets = crowded_batch(counts)
    floats = list(images.pixels / 255)
    dense = [{**target, "masks": target["masks"].dense()} for target in targets]  # type: ignore[union-attr]

    def step() -> None:
        losses = model(floats, dense)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


def counted(step: Callable[[], object]) -> Launches:
    """What the second call of `step` does; the first makes what later ones find there. Not counted is what reads
    targets and the boxes of crops, which are on the host."""
    step()
    with ExitStack() as patches:
        for module, name in ((mask_rcnn, "checked_targets"), (mask_targets, "_table")):
            patches.enter_context(patch.object(module, name, _uncounted(getattr(module, name))))
        with Launches() as launches:
            step()
    return launches


def _uncounted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            return function(*arguments)

    return call


def main() -> None:
    for counts in ([2, 5], [31, 31]):
        sides = {
            "ours on a processor": our_step(counts, path_for=path_for),
            "ours on a GPU": our_step(counts),
            "ours on a GPU, torchvision's heads": our_step(counts, "experiment=torchvision_v1"),
            "torchvision": torchvision_step(counts),
        }
        for name, step in sides.items():
            found = counted(step)
            waits = ", ".join(f"{count} {what}" for what, count in found.waits.most_common())
            print(
                f"{counts} objects, {name}: {found.operations.total()} launches, {found.waits.total()} waits: {waits}"
            )


if __name__ == "__main__":
    main()
