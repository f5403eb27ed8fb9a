"""Repeat a step that could not be taken, on such a device as it ran on, and say where it went wrong and why."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.engine import precision
from maskrcnn_train.engine.failed_steps import read_failed_step
from maskrcnn_train.engine.step import BadStep, accumulate_gradients, check_step, total_gradient_norm
from maskrcnn_train.model.mask_rcnn import build_model
from maskrcnn_train.settings.compose import config_from_plain
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.classes import ClassMap

HUGE = 1e4  # activations of a healthy network stay far below


@dataclass
class Replay:
    """What a repeated step showed. reproduced: whether it failed again; module: the first whose output is not finite
    (None: none is); cause: the likely one, with the setting to change; other_draws: whether a GPU drew its samples and
    none is here to draw them again."""

    step: int
    reproduced: bool
    reason: str
    module: str | None
    cause: str
    other_draws: bool = False

    def __str__(self) -> str:
        result = f": {self.reason}" if self.reproduced else " gives a finite loss here"
        first = self.module or "none, all modules are finite"
        draws = "\nthe step ran on a GPU; without one it gets other random samples" if self.other_draws else ""
        return f"step {self.step}{result}\nfirst output that is not finite: {first}\nlikely cause: {self.cause}{draws}"


def replay(path: Path) -> Replay:
    """Repeat a failed step with its weights, batches and random draws. Raises UserError for a wrong file."""
    content = read_failed_step(path)
    config, classes = config_from_plain(content["config"]), ClassMap.from_plain(content["classes"])
    model = build_model(config, classes.num_classes, objects=classes.objects)
    on_gpu = content.get("device", "cpu") == "cuda"  # older files do not say
    device = torch.device("cuda" if on_gpu and torch.cuda.is_available() else "cpu")
    model = precision.to_device(model, device, channels_last=config.trainer.channels_last)
    model.load_state_dict(content["model"])
    watch = _Watch(model)
    model.backbone.keep_body_statistics(content["step"] < config.trainer.heads_only_steps)
    failure = _repeat(content, model, config)
    reason = failure.reason if failure is not None else content["reason"]
    cause, other_draws = _cause(content, model, watch, failure), on_gpu and device.type == "cpu"
    return Replay(content["step"], failure is not None, reason, watch.first, cause, other_draws)


def _repeat(content: dict[str, Any], model: nn.Module, config: TrainConfig) -> BadStep | None:
    """Forward and backward as the run did, but in fp32 where it used fp16, whose scaler hides what is looked for here;
    returns the failure."""
    batches, step = content["batches"], content["step"]
    name = "fp32" if config.trainer.precision == "fp16" else config.trainer.precision
    scaler = precision.grad_scaler("fp32", torch.device("cpu"))
    precision.seed_step(content["seed"], step, content["rank"])
    try:
        losses = accumulate_gradients(model, batches, scaler, precision=name, step=step)
        check_step(losses, total_gradient_norm(model.parameters()), model, batches, scaler, step=step)
    except BadStep as error:
        return error
    return None


class _Watch:
    """Follows every module's output. first: name of the first that is not finite; largest: the largest finite value
    before it, and whose."""

    def __init__(self, model: nn.Module) -> None:
        self.first: str | None = None
        self.largest, self.largest_in = 0.0, ""
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _, __, output, name=name: self._look(name, output))

    def _look(self, name: str, output: Any) -> None:
        if self.first is not None or not isinstance(output, Tensor) or output.numel() == 0:
            return
        value = float(output.detach().abs().max())
        if not math.isfinite(value):
            self.first = name
        elif value > self.largest:
            self.largest, self.largest_in = value, name


def _cause(content: dict[str, Any], model: nn.Module, watch: _Watch, failure: BadStep | None) -> str:
    spoiled = [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor.float()).all())]
    lower = f"lower optimizer.lr (it was {content['lr']:.3g} here)"
    advice = f"{lower}, lengthen schedule.warmup_steps, or set trainer.clip_norm=1"
    if spoiled:
        return f"the weights were not finite before this step ({spoiled[0]}): an earlier step spoiled them; {advice}"
    if target := _odd_target(content["batches"]):
        return target
    if failure is None:
        return "precision or device: the step fails there but not here; try trainer.precision=fp32"
    if watch.largest > HUGE:
        grown = f"the outputs have grown to {watch.largest:.3g} (in {watch.largest_in})"
        return f"{grown}: the training diverges; {advice}"
    return f"unknown: targets and weights are finite, outputs at most {watch.largest:.3g}; {advice}"


def _odd_target(batches: list[Any]) -> str | None:
    """The first object that is hardly one: without extent, not finite, or outside every plausible size."""
    for target in (target for _, targets in batches for target in targets):
        boxes = target["boxes"]
        sides = boxes[:, 2:] - boxes[:, :2]
        odd = ~torch.isfinite(boxes).all(dim=1) | (sides < 1e-3).any(dim=1) | (boxes.abs() > 1e6).any(dim=1)
        for index in torch.where(odd)[0].tolist():
            where = f"object {index} of image {target.get('image_id')}"
            box = f"the box {boxes[index].tolist()} (network pixels)"
            return f"{where} has {box}; correct or remove it in the annotations"
    return None
