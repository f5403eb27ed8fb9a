"""One step: forward, backward, and the optimizer, at the configured precision."""

import math
from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.engine import distributed
from maskrcnn_train.engine.distributed import ALONE, World
from maskrcnn_train.engine.precision import autocast, grad_scaler
from maskrcnn_train.engine.state import RunningStatistics
from maskrcnn_train.model.inputs import BadTarget
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import ImageBatch, to_device
from maskrcnn_train.structures.waits import read

Batch = tuple[Any, list[Any]]
SMALLEST_SCALE = 1.0  # of fp16's losses; DeepSpeed's `min_loss_scale`


class BadStep(UserError):
    """A step that cannot be taken: a loss or a gradient is not finite, or a target is impossible.

    The weights are as before it. Carries what is needed to look into it.
    """

    def __init__(
        self, reason: str, step: int, batches: list[Batch], losses: dict[str, float], norms: dict[str, float]
    ) -> None:
        self.image_ids = [target.get("image_id") for _, targets in batches for target in targets]
        super().__init__(f"step {step} cannot be taken: {reason}; images {self.image_ids}")
        self.reason, self.step, self.batches, self.losses, self.gradient_norms = reason, step, batches, losses, norms


class OutOfMemory(UserError):
    """A step needs more memory than there is. Says which images, and what to lower."""


REMEDY = (
    "Lower trainer.batch_size (with trainer.accumulate the result stays alike), data.min_size and data.max_size, "
    "rpn.nms.post_train or roi_head.sampling.batch_size"
)


def out_of_memory(batches: list[Batch], step: int) -> OutOfMemory:
    """The error of a step without enough memory; the weights are as before the step."""
    images, targets = zip(*batches, strict=True)
    sizes = [f"{each.pixels.shape[3]} x {each.pixels.shape[2]}" for each in images if isinstance(each, ImageBatch)]
    ids = [target.get("image_id") for each in targets for target in each]
    objects = [len(target["boxes"]) for each in targets for target in each]
    what = f"images {ids} with {objects} objects, {', '.join(sizes)} pixels with padding"
    return OutOfMemory(f"out of memory at step {step}: {what}. {REMEDY}")


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Any,
    targets: list[Any],
    config: TrainConfig,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, float]:
    """One optimizer step at the configured precision, for a loop of one's own.

    images, targets: as a loader of `build_loaders` yields them, or torchvision's lists. scaler: with fp16 only, one
    `torch.amp.GradScaler()` for all steps, for it learns from each. Returns each loss.
    Raises UserError (BadStep) before anything is changed when a loss or gradient is not finite.
    """
    if not model.training:
        raise UserError("the model is in evaluation mode, which gives no losses; call model.train() before a step")
    precision, batches = config.trainer.precision, [(images, targets)]
    unscaled = grad_scaler(precision, next(model.parameters()).device)
    if scaler is None and unscaled.is_enabled():
        raise UserError("training_step in fp16 needs scaler=torch.amp.GradScaler(), the same at every step")
    scaler = scaler or unscaled
    try:
        with RunningStatistics(model).put_back_on_failure():
            losses = accumulate_gradients(model, batches, scaler, precision=precision, step=0)
            norm = unscaled_norm(optimizer, scaler)
            values, _ = check_step(losses, norm, model, batches, scaler, step=0)
    except Exception:
        optimizer.zero_grad(set_to_none=True)
        raise
    apply_gradients(optimizer, scaler, norm=norm, clip_norm=config.trainer.clip_norm)
    return values


def accumulate_gradients(
    model: nn.Module,
    batches: list[Batch],
    scaler: torch.amp.GradScaler,
    *,
    precision: str,
    step: int,
    world: World = ALONE,
) -> dict[str, Tensor]:
    """Forward and backward over batches whose gradients are averaged. Returns the mean of each loss, not yet read: the
    host waits for a GPU once a step, in `check_step`. Raises BadStep on every rank for an impossible target on one.
    """
    device = next(model.parameters()).device
    means: list[Tensor] = []
    for index, (images, targets) in enumerate(batches):
        with distributed.without_sync(model, skip=index + 1 < len(batches)):
            losses, fault = _forward(model, to_device(images, device), targets, precision)
            if distributed.any_rank(fault is not None, world):
                raise BadStep(fault or "another process met a fault", step, batches, {}, {})
            parts = torch.stack([loss.float() for loss in losses.values()])
            if len(batches) > 1:
                parts = parts / len(batches)
            scaler.scale(parts.sum()).backward()
            means.append(parts.detach())
    return dict(zip(losses, reduce(add, means).unbind(), strict=True))


def _forward(model: nn.Module, images: Any, targets: list[Any], precision: str) -> tuple[dict[str, Tensor], str | None]:
    """Losses, and what is wrong with the targets (None: nothing)."""
    try:
        with autocast(precision, next(model.parameters()).device):
            losses: dict[str, Tensor] = model(images, targets)
    except BadTarget as error:
        return {}, str(error)
    return losses, None


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Those that the optimizer steps. A model takes milliseconds to list its own."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def total_gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together."""
    return nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


def unscaled_norm(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> Tensor:
    """The norm of all gradients, once those of fp16 have their own size again."""
    scaler.unscale_(optimizer)
    return total_gradient_norm(trained_parameters(optimizer))


def check_step(
    losses: dict[str, Tensor],
    norm: Tensor,
    model: nn.Module,
    batches: list[Batch],
    scaler: torch.amp.GradScaler,
    *,
    step: int,
    world: World = ALONE,
) -> tuple[dict[str, float], float]:
    """The losses and the gradient norm as numbers, read together. Raises BadStep, on every rank, for a loss that is not
    finite, or a gradient; with fp16 the scaler skips steps of such gradients itself, as long as a smaller scale may
    help, and is told of other ones."""
    *numbers, norm_value = read(torch.stack([*losses.values(), norm.float()]))
    values = dict(zip(losses, numbers, strict=True))
    finite = all(math.isfinite(value) for value in numbers)
    if distributed.any_rank(not finite, world):
        parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        reason = "another process met a fault" if finite else f"the loss is not finite ({parts})"
        scaler.update()  # ends its step: it takes no other one before
        raise BadStep(reason, step, batches, values, {})
    if not math.isfinite(norm_value) and not (scaler.is_enabled() and scaler.get_scale() >= SMALLEST_SCALE):
        scaler.update()
        modules = {name: part for name, part in distributed.unwrap(model).named_modules() if name.count(".") == 1}
        norms = {name: float(total_gradient_norm(part.parameters())) for name, part in modules.items()}
        bad = [name for name, value in norms.items() if not math.isfinite(value)]
        raise BadStep(f"the gradient is not finite (in {', '.join(bad[:5])})", step, batches, values, norms)
    return values, norm_value


def apply_gradients(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, *, norm: Tensor, clip_norm: float
) -> None:
    """Clip to `clip_norm` (0: not at all), step, clear. norm: of the gradients as they are."""
    if clip_norm > 0:
        nn.utils.clip_grads_with_norm_(trained_parameters(optimizer), clip_norm, norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
