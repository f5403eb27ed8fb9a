"""Published weights: their addresses, and where downloaded copies are kept.

This module never imports torch, so that a missing file is reported at once.
"""

import hashlib
import logging
import os
import re
import shutil
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from maskrcnn_train.files import written_aside
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig

ADDRESS = "https://download.pytorch.org/models/"
_HASHES = {  # of torchvision's IMAGENET1K_V1: what its own detection models start from
    "resnet18": "f37072fd", "resnet34": "b627a593", "resnet50": "0676ba61", "resnet101": "63fe2227",
    "resnet152": "394f9c45", "resnext50_32x4d": "7cdf4587", "resnext101_32x8d": "8ba56ff5",
    "resnext101_64x4d": "173b62eb", "wide_resnet50_2": "95faca4d", "wide_resnet101_2": "32ee1156",
}  # fmt: skip
IMAGENET = {name: f"{name}-{start}.pth" for name, start in _HASHES.items()}
COCO = {"coco": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "coco_v2": "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"}
CONNECT_SECONDS, PROBE_SECONDS = 10, 3

logger = logging.getLogger("maskrcnn_train")


def weights_cache() -> Path:
    """torch's folder for downloaded weights: $TORCH_HOME/hub/checkpoints, by default in ~/.cache/torch."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{base}/torch").expanduser() / "hub/checkpoints"


def nearest_published(backbone: str) -> str:
    """The backbone, or a small one with published ImageNet weights where nobody publishes its own."""
    return backbone if backbone in IMAGENET or backbone == "timm" else "resnet18"


def imagenet_at_hand(backbone: str) -> bool:
    """Whether the ImageNet weights of a backbone were downloaded, or the server that has them can be reached."""
    file = IMAGENET.get(nearest_published(backbone))
    if file is None or (weights_cache() / file).is_file():
        return True
    try:
        socket.create_connection((str(urlsplit(ADDRESS).hostname), 443), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def find_weights(config: TrainConfig) -> Path | None:
    """The file that `weights=` stands for, downloaded if necessary; None if it needs no file.

    Raises UserError for a missing file, for no network (with the address, and where to put the file), for a
    published file whose content does not match the hash in its name, and for a backbone that the weights do not fit.
    """
    section, backbone = config.weights, config.backbone.name
    if section.source == "none" and config.backbone.norm == "frozen":
        raise UserError(
            "backbone.norm=frozen with weights=none would keep every norm at its initial identity; "
            "start from weights, e.g. weights=imagenet, or set backbone.norm=batch"
        )
    if section.source == "imagenet" and (near := nearest_published(backbone)) != backbone:
        raise UserError(
            f"nobody publishes weights=imagenet for backbone={backbone}; use backbone={near} or weights=none"
        )
    if section.source in COCO and backbone != "resnet50":
        raise UserError(
            f"weights={section.source} holds a resnet50, which does not fit backbone={backbone}; "
            f"use backbone=resnet50, or weights=imagenet for {nearest_published(backbone)}"
        )
    if section.source in ("file", "detectron2"):
        assert section.path is not None
        path = Path(section.path).expanduser()
        if not path.is_file():
            raise UserError(f"weights.path={section.path} does not exist")
        return path
    if section.source == "none" or backbone == "timm":
        return None
    name = IMAGENET[backbone] if section.source == "imagenet" else COCO[section.source]
    path = weights_cache() / name
    if not path.is_file():
        download(ADDRESS + name, path)
    if section.verify:
        check_hash(path)
    return path


def check_hash(path: Path) -> None:
    """Raises UserError when the SHA-256 of a file does not begin with the hash in its name: resnet18-f37072fd.pth."""
    match = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if match is None:
        return
    with open(path, "rb") as file:
        start = hashlib.file_digest(file, "sha256").hexdigest()[: len(match[1])]
    if start != match[1]:
        raise UserError(
            f"{path} is not the published file: its SHA-256 begins with {start}, its name says {match[1]}. "
            "Delete it to download it again, or keep it with weights.verify=false"
        )


def download(address: str, path: Path) -> None:
    """Download a file; nothing of an interrupted download stays. Raises UserError with address and path."""
    try:
        with urllib.request.urlopen(address, timeout=CONNECT_SECONDS) as answer, written_aside(path) as aside:
            logger.info("downloading %s (%.0f MB)", address, int(answer.headers.get("Content-Length", 0)) / 1e6)
            with open(aside, "wb") as file:
                shutil.copyfileobj(answer, file)
    except OSError as error:  # URLError is one
        reason = getattr(error, "reason", None) or error
        text = (
            f"cannot download {address} ({reason}); put the file at {path}, or train from nothing: experiment=scratch"
        )
        raise UserError(text) from error
