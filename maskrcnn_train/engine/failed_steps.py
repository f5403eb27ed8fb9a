"""A step that gave no finite loss, kept whole in a file: `replay=FILE` repeats it anywhere."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from maskrcnn_train.engine import distributed
from maskrcnn_train.engine.checkpoint import read_plain, save_plain
from maskrcnn_train.engine.step import BadStep, Batch
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainerConfig
from maskrcnn_train.structures.batch import ImageBatch, MaskCrops, Target

FORMAT = "maskrcnn_train/autopsy/1"
logger = logging.getLogger("maskrcnn_train")


class Autopsies:
    """What happens to steps that cannot be taken: each is written to `folder`, then the training stops or goes on.

    about: plain data that goes into every file as into a checkpoint: the config and the class map.
    trainer: `on_nonfinite` and `max_skipped` decide.
    """

    def __init__(self, folder: Path, *, about: dict[str, Any], trainer: TrainerConfig, rank: int) -> None:
        self.folder, self.about, self.trainer, self.rank = folder, about, trainer, rank
        self.in_a_row = 0

    def step_was_good(self) -> None:
        self.in_a_row = 0

    def take(self, error: BadStep, model: nn.Module, lr: float) -> None:
        """Write the step down; raises it again, with the path, unless it is skipped."""
        self.in_a_row += 1
        path = write_autopsy(self.folder, error, model, about=self.about, lr=lr, rank=self.rank)
        if self.trainer.on_nonfinite == "skip" and self.in_a_row < self.trainer.max_skipped:
            logger.warning("%s; skipped, kept in %s", error, path)
            return
        error.args = (f"{error}. Look into it with: python -m maskrcnn_train replay={path}",)
        raise error


def write_autopsy(
    folder: Path, error: BadStep, model: nn.Module, *, about: dict[str, Any], lr: float, rank: int
) -> Path:
    """Write `folder`/step_N.pt: weights before the step, its batches, losses, gradient norms. Raises OSError.

    about: plain data that goes into the file as into a checkpoint: the config and the class map.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f"step_{error.step}.pt" if rank == 0 else f"step_{error.step}_rank_{rank}.pt")
    content = {
        "format": FORMAT,
        **about,
        "step": error.step,
        "rank": rank,
        "seed": about["config"]["seed"],
        "lr": lr,
        "reason": error.reason,
        "losses": error.losses,
        "gradient_norms": error.gradient_norms,
        "model": distributed.unwrap(model).state_dict(),
        "batches": [batch_to_plain(batch) for batch in error.batches],
    }
    save_plain(content, path)
    return path


def read_autopsy(path: Path) -> dict[str, Any]:
    """The content of an autopsy, batches rebuilt, on the CPU. Raises UserError when it is none."""
    content = read_plain(path, f"replay={path}")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"replay={path} is no autopsy; they are in RUN_FOLDER/autopsy/step_N.pt")
    content["batches"] = [batch_from_plain(plain) for plain in content["batches"]]
    return content


def batch_to_plain(batch: Batch) -> dict[str, Any]:
    """Tensors and plain containers, as torch.load(weights_only=True) takes them."""
    images, targets = batch
    plain_images = asdict(images) if isinstance(images, ImageBatch) else list(images)
    plain_targets = [
        {key: {"crops": asdict(value)} if isinstance(value, MaskCrops) else value for key, value in target.items()}
        for target in targets
    ]
    return {"images": plain_images, "targets": plain_targets}


def batch_from_plain(plain: dict[str, Any]) -> Batch:
    images = ImageBatch(**plain["images"]) if isinstance(plain["images"], dict) else plain["images"]
    targets: list[Target] = []
    for values in plain["targets"]:
        target = {
            key: MaskCrops(**value["crops"]) if isinstance(value, dict) else value for key, value in values.items()
        }
        targets.append(target)  # type: ignore[arg-type]
    return images, targets
