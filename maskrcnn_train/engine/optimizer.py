"""The optimizer, its parameter groups, and the learning rate for the real batch size."""

from __future__ import annotations

import torch
from torch import nn

from maskrcnn_train.config import OptimizerConfig, TrainerConfig

NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(section: OptimizerConfig, model: nn.Module, *, images_per_step: int) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that train, at the learning rate for `images_per_step`."""
    groups = parameter_groups(model, section.weight_decay, section.norm_weight_decay)
    lr = scaled_lr(section, images_per_step)
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=section.momentum)
    return torch.optim.AdamW(groups, lr=lr, betas=(section.betas[0], section.betas[1]))


def images_per_step(trainer: TrainerConfig, world_size: int) -> int:
    """Images that one optimizer step sees, over all devices and accumulated batches."""
    return trainer.batch_size * trainer.accumulate * world_size


def scaled_lr(section: OptimizerConfig, images_per_step: int) -> float:
    """The linear rule of Goyal et al. 2017: the learning rate grows with the images a step."""
    return section.lr * images_per_step / section.reference_batch_size if section.scale_lr else section.lr


def parameter_groups(model: nn.Module, weight_decay: float, norm_weight_decay: float | None) -> list[dict[str, object]]:
    """Weights and (with `norm_weight_decay`) norms and biases apart, each with its weight decay."""
    norm_names = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    weights: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            small = norm_weight_decay is not None and (name in norm_names or name.endswith(".bias"))
            (norms if small else weights).append(parameter)
    groups: list[dict[str, object]] = [{"params": weights, "weight_decay": weight_decay}]
    if norms:
        groups.append({"params": norms, "weight_decay": norm_weight_decay})
    return groups


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
