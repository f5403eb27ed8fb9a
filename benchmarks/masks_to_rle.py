"""100 predicted masks on a 1024 x 1024 image to COCO RLE: torchvision's paste and pycocotools' encode against ours.

python benchmarks/masks_to_rle.py [--rounds 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from sides import in_turn, machine, peak_mb, print_ratios
from torchvision.models.detection.roi_heads import paste_masks_in_image

from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.pasting import MaskPasting

SIZE = (1024, 1024)


def detections() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth masks [100, 1, 28, 28] and boxes [100, 4] of 20 to 400 pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((100, 1, 7, 7), generator=generator)
    masks = torch.nn.functional.interpolate(coarse, size=28, mode="bicubic", align_corners=False).clamp(0, 1)
    sides = 20 + 380 * torch.rand((100, 2), generator=generator) ** 2
    corners = torch.rand((100, 2), generator=generator) * (1024 - sides)
    return masks, torch.cat([corners, corners + sides], dim=1)


def theirs() -> list[dict[str, Any]]:
    full = paste_masks_in_image(*detections(), SIZE)
    return [coco_mask.encode(np.asfortranarray(mask[0].numpy() > 0.5, dtype=np.uint8)) for mask in full]


def ours(count: int = 100) -> list[dict[str, Any]]:
    masks, boxes = (each[:count] for each in detections())
    labels, scores = torch.ones(len(boxes), dtype=torch.int64), torch.ones(len(boxes))
    return Detections(boxes, labels, scores, SIZE, masks, pasting=MaskPasting(0.5, "integer")).rle()


SIDES: dict[str, Callable[[], list[dict[str, Any]]]] = {"torchvision + pycocotools": theirs, "ours": ours}


def status_mb(name: str) -> float:
    """A line of Linux's account of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", choices=SIDES)
    arguments = parser.parse_args()
    if arguments.memory_of:
        ours(count=1)  # libraries are loaded by now
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew here
        before = status_mb("VmRSS")
        SIDES[arguments.memory_of]()
        print(status_mb("VmHWM") - before)
        return
    print(machine())
    equal = all(a["counts"].decode() == b["counts"] for a, b in zip(theirs(), ours(), strict=True))
    print(f"the codes are {'equal' if equal else 'DIFFERENT'}")
    print_ratios(in_turn(SIDES, arguments.rounds), "ours")
    for name in SIDES:
        print(f"{name}: {peak_mb(__file__, name):.1f} MB more at the peak")


if __name__ == "__main__":
    main()
