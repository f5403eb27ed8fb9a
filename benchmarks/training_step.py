"""A training step of R50-FPN, 2 images at 800 px: torchvision's code against ours.

Sides: torchvision as a person writes it (CocoDetection, v2 transforms, fp32); the same with bf16 and channels_last
by hand; with RoIAlign and the optimizer tuned by hand too; ours at its default precision, and ours in fp32. Reading
the images is not part of a step. Peak memory is that of a process of its own for each side. Box heads: torchvision's
of two FC layers, or 4 convs and 2 FC layers, the default here.

`--shares` prints instead what part of each side's operations are convolutions and matrix products.

    MASKRCNN_TRAIN_BENCH_DATA=FOLDER python benchmarks/training_step.py [--rounds 5] [--head fc2|conv4_fc2] [--shares]
"""

from __future__ import annotations

import argparse
import re
import resource
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from sides import data_root, in_turn, machine, peak_mb, print_ratios
from torch.profiler import ProfilerActivity, profile
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.transforms import v2

from maskrcnn_train import build_loaders, build_model, load_config, training_step
from maskrcnn_train.engine.optimizer import build_optimizer
from maskrcnn_train.engine.precision import to_device

CLASSES = 11
POSITIONS = (0, 1)


def torchvision_side(head: str, *, tuned: bool) -> Callable[[], object]:
    root = data_root() / "train"
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    plain = CocoDetection(str(root), str(root / "_annotations.coco.json"), transforms=transform)
    data = wrap_dataset_for_transforms_v2(plain, target_keys=["boxes", "labels", "masks"])
    images, targets = zip(*(data[position] for position in POSITIONS), strict=True)
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES).train()
    if head == "conv4_fc2":
        model.roi_heads.box_head = FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024] * 2)
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16) if tuned else nullcontext():
            losses = model(list(images), list(targets))
            loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_side(head: str, precision: str) -> Callable[[], object]:
    config = load_config(
        [
            "experiment=torchvision_v1",
            f"roi_head={head}",
            "roi_head.norm=none",
            "data=roboflow",
            f"data.root={data_root()}",
            f"trainer.precision={precision}",
            "trainer.num_workers=0",
            "augmentation=none",
        ]
    )
    loaders = build_loaders(config)
    batch: Any = loaders.train.collate_fn(loaders.train.dataset.__getitems__([(0, each) for each in POSITIONS]))
    images, targets = batch.unpack()
    torch.manual_seed(0)
    model = to_device(build_model(config, CLASSES), torch.device("cpu"), channels_last=config.trainer.channels_last)
    optimizer = build_optimizer(config.optimizer, model, images_per_step=2)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    return lambda: training_step(model.train(), optimizer, images, targets, config)


SIDES: dict[str, Callable[[str], Callable[[], object]]] = {
    "torchvision as written": lambda head: torchvision_side(head, tuned=False),
    "torchvision, bf16 and channels_last": lambda head: torchvision_side(head, tuned=True),
    "ours, default": lambda head: our_side(head, "auto"),
    "ours, fp32": lambda head: our_side(head, "fp32"),
}


def share_of_products(step: Callable[[], object]) -> float:
    """What part of the time of a step's operations convolutions and matrix products take."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        step()
    times: dict[str, float] = {each.key: each.self_cpu_time_total for each in trace.key_averages()}
    products = [time for name, time in times.items() if re.fullmatch(r"aten::(\w*conv\w*|mm|bmm|b?addb?mm)", name)]
    return sum(products) / sum(times.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--head", choices=["fc2", "conv4_fc2"], default="fc2")
    parser.add_argument("--shares", action="store_true")
    parser.add_argument("--memory-of", choices=SIDES)
    arguments = parser.parse_args()
    if arguments.memory_of:
        step = SIDES[arguments.memory_of](arguments.head)
        step()
        step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    data_root()
    print(machine())
    if arguments.shares:
        for name, build in SIDES.items():
            print(f"{name}: {share_of_products(build(arguments.head)):.1%} are convolutions and matrix products")
        return
    memory = {name: peak_mb(__file__, name, "--head", arguments.head) for name in SIDES}
    steps = {name: build(arguments.head) for name, build in SIDES.items()}
    print_ratios(in_turn(steps, arguments.rounds), "ours, default")
    for name, peak in memory.items():
        share = peak / memory["torchvision as written"]
        print(f"{name}: peak memory {peak:.0f} MB, {share:.2f} of torchvision as written")


if __name__ == "__main__":
    main()
