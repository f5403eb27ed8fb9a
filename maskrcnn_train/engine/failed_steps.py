"""Steps without a finite loss, each kept whole in a file: `replay=FILE` repeats it anywhere."""

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
from maskrcnn_train.structures.batch import ImageBatch, MaskCrops

FORMAT = "maskrcnn_train/autopsy/1"
MOST_KEPT = 20  # of the steps that are skipped; a file has the weights and the images of a step
KEYS = ("config", "classes", "step", "rank", "seed", "lr", "reason", "model", "batches")
logger = logging.getLogger("maskrcnn_train")


class FailedSteps:
    """Writes each step that cannot be taken to `folder`; then the training stops or goes on.

    about: plain data that goes into every file as into a checkpoint: the config and the class map.
    trainer: `on_nonfinite` and `max_skipped` decide. in_a_row: failed steps since one was taken.
    """

    def __init__(self, folder: Path, *, about: dict[str, Any], trainer: TrainerConfig, rank: int) -> None:
        self.folder, self.about, self.trainer, self.rank = folder, about, trainer, rank
        self.in_a_row = 0

    def add(self, error: BadStep, model: nn.Module, lr: float) -> None:
        """Write the step; raises `error` again, with the file's path, unless the step is skipped."""
        self.in_a_row += 1
        is_skipped = self.trainer.on_nonfinite == "skip" and self.in_a_row < self.trainer.max_skipped
        if is_skipped and len(list(self.folder.glob("step_*.pt"))) >= MOST_KEPT:
            logger.warning("%s; skipped, not kept: %s holds %d already", error, self.folder, MOST_KEPT)
            return
        path = self._write(error, model, lr)
        if is_skipped:
            logger.warning("%s; skipped, kept in %s", error, path)
            return
        error.args = (f"{error}. To find the cause: python -m maskrcnn_train replay={path}",)
        raise error

    def _write(self, error: BadStep, model: nn.Module, lr: float) -> Path:
        """Write step_N.pt: weights before the step, its batches, losses and gradient norms."""
        content = {
            "format": FORMAT,
            **self.about,
            "step": error.step,
            "rank": self.rank,
            "device": next(model.parameters()).device.type,  # whose generator drew the samples
            "seed": self.about["config"]["seed"],
            "lr": lr,
            "reason": error.reason,
            "losses": error.losses,
            "gradient_norms": error.gradient_norms,
            "model": distributed.unwrap(model).state_dict(),
            "batches": [batch_to_plain(batch) for batch in error.batches],
        }
        path = self.folder / f"step_{error.step}{f'_rank_{self.rank}' if self.rank else ''}.pt"
        save_plain(content, path)
        return path


def read_failed_step(path: Path) -> dict[str, Any]:
    """The content of a step_N.pt, batches rebuilt, on the CPU. Raises UserError when it is none or lacks something."""
    name = f"replay={path}"
    other = f"{name} is not a failed step; they are in RUN_FOLDER/autopsy/step_N.pt"
    content = read_plain(path, name, form=FORMAT, keys=KEYS, other=other)
    try:
        content["batches"] = [batch_from_plain(plain) for plain in content["batches"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{name} is incomplete: its batches cannot be read ({error!r})") from error
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
    targets = [
        {key: MaskCrops(**value["crops"]) if isinstance(value, dict) else value for key, value in target.items()}
        for target in plain["targets"]
    ]
    return images, targets
