"""The optimizer, its parameter groups, and the learning rate for the real batch size."""

from typing import Any

import torch
from torch import nn

from maskrcnn_train.engine.muon import Muon
from maskrcnn_train.settings.schema import OptimizerConfig, TrainerConfig

FEWEST_INPUTS = 17  # images have at most 16 channels; a depthwise layer sees one
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(section: OptimizerConfig, model: nn.Module, *, images_per_step: int) -> torch.optim.Optimizer:
    """SGD, AdamW or Muon over the parameters that train, at the learning rate for `images_per_step`."""
    groups = parameter_groups(model, section)
    lr = scaled_lr(section, images_per_step)
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=section.momentum, fused=True)
    betas = section.betas[0], section.betas[1]
    if section.name == "muon":
        return Muon(groups, lr, momentum=section.momentum, betas=betas)
    assert section.name == "adamw"
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def images_per_step(trainer: TrainerConfig, world_size: int) -> int:
    """Images that one optimizer step sees, over all devices and accumulated batches."""
    return trainer.batch_size * trainer.accumulate * world_size


def scaled_lr(section: OptimizerConfig, images_per_step: int) -> float:
    """The linear rule of Goyal et al. 2017: the learning rate grows with the images a step."""
    return section.lr * images_per_step / section.reference_batch_size if section.scale_lr else section.lr


def parameter_groups(model: nn.Module, section: OptimizerConfig) -> list[dict[str, Any]]:
    """Body of the backbone and the rest, each with weights and (with `norm_weight_decay`) norms and biases apart.

    Each group says its `lr_factor`, whether it is `body`, and whether its parameters are `matrices`: for Muon, the
    weights of hidden layers.
    """
    norm_names = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    split: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            body = name.startswith("backbone.body.")
            small = section.norm_weight_decay is not None and (name in norm_names or name.endswith(".bias"))
            matrix = section.name == "muon" and _is_matrix(name, parameter, body=body)
            split.setdefault((body, small, matrix), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": section.norm_weight_decay if small else section.weight_decay,
            "lr_factor": section.backbone_lr_factor if body else 1.0,
            "body": body,
            "matrices": matrix,
        }
        for (body, small, matrix), parameters in split.items()
    ]


def _is_matrix(name: str, parameter: nn.Parameter, *, body: bool) -> bool:
    """Whether Muon is meant for it: a weight, not of a layer that sees the image, is depthwise, or predicts."""
    predicts = any(part in name for part in ("predictor", "cls_logits", "bbox_pred"))
    return parameter.ndim > 1 and not predicts and not (body and parameter.shape[1] < FEWEST_INPUTS)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of this step for each group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def train_body(optimizer: torch.optim.Optimizer, enabled: bool) -> None:
    """Leave the gradients of the body out, which saves its backward pass. Several processes need every gradient."""
    for parameter in (each for group in optimizer.param_groups if group["body"] for each in group["params"]):
        parameter.requires_grad_(enabled)


def drop_body_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Forget the gradients of the body, so that a step neither changes it nor adds to its momentum."""
    for parameter in (each for group in optimizer.param_groups if group["body"] for each in group["params"]):
        parameter.grad = None
