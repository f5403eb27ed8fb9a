"""Checks of a configuration: the range of each value, and the rules between the settings of a training.

`load_config` calls them, so other code need not check values again. This module never imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import FPN_LEVELS, DataConfig, EvaluationConfig, TrainConfig

if TYPE_CHECKING:
    from maskrcnn_train.settings.command_schema import MeasuresConfig


def check_values(section: Any, prefix: str = "") -> None:
    """Raises UserError for the first value outside its options or range, naming its full key."""
    for item in fields(section):
        key, value = prefix + item.name, getattr(section, item.name)
        if is_dataclass(value):
            check_values(value, key + ".")
        elif isinstance(value, str) and not value.strip():
            raise UserError(f"{key} is empty; write {key}=VALUE, or leave it out")
        else:
            _check_value(key, value, dict(item.metadata))


def _check_value(key: str, value: Any, rule: dict[str, Any]) -> None:
    if value is None or not rule:
        return
    if "options" in rule:
        for each in value if isinstance(value, list) else [value]:
            if each not in rule["options"]:
                options = ", ".join(str(option) for option in rule["options"])
                raise UserError(f"{key}={each} is not an option; choose one of {options}")
        return
    low, high, above = rule.get("low"), rule.get("high"), rule.get("above")
    for number in value if isinstance(value, list) else [value]:
        if not math.isfinite(number):
            raise UserError(f"{key}={value} is not a finite number")
        if (
            (above is not None and number <= above)
            or (low is not None and number < low)
            or (high is not None and number > high)
        ):
            raise UserError(f"{key}={value} is out of range; it must be {_range_text(low, high, above)}")


def _range_text(low: float | None, high: float | None, above: float | None) -> str:
    if above is not None:
        return f"above {above}" if high is None else f"above {above} and at most {high}"
    return f"at least {low}" if high is None else f"from {low} to {high}"


def check_model_rules(config: Any) -> list[str]:
    """Rules between the settings of the model; returns warnings for settings without effect.

    config: any configuration with the sections of the model. Raises UserError for settings that contradict each other.
    """
    iou, anchors, head = config.rpn.iou, config.rpn.anchors, config.roi_head
    if iou.lower >= iou.upper:
        raise UserError(
            f"rpn.iou.lower={iou.lower} must be below rpn.iou.upper={iou.upper}; "
            f"lower it, e.g. rpn.iou.lower={max(0.0, round(iou.upper - 0.4, 2))}"
        )
    if len(anchors.sizes) != len(FPN_LEVELS):
        raise UserError(
            f"rpn.anchors.sizes={anchors.sizes} has {len(anchors.sizes)} sizes; "
            f"give one for each of the {len(FPN_LEVELS)} FPN levels ({', '.join(FPN_LEVELS)})"
        )
    if not anchors.aspect_ratios:
        raise UserError("rpn.anchors.aspect_ratios is empty; give at least one ratio, e.g. [0.5,1,2]")
    if head.num_convs == 0 and head.num_fcs == 0:
        raise UserError(
            "roi_head.num_convs=0 and roi_head.num_fcs=0 leave the ROI box head empty; set at least one of them above 0"
        )
    if len(config.numerics.pixel_mean) != 3 or len(config.numerics.pixel_std) != 3:
        raise UserError("numerics.pixel_mean and numerics.pixel_std need three values each, for R, G, B")
    _check_norms(config)
    return _idle_model_settings(config)


def _check_norms(config: Any) -> None:
    backbone = {"backbone.norm": backbone_norm(config), "backbone.fpn_norm": config.backbone.fpn_norm}
    for key, norm in backbone.items():
        if norm in ("batch", "group") and config.backbone.norm_eps == 0:
            raise UserError(f"backbone.norm_eps=0 divides by zero with {key}={norm}; set backbone.norm_eps=1.0e-5")
    heads = {
        "roi_head": (config.roi_head, config.pooler, "pooler"),
        "mask_head": (config.mask_head, config.mask_head.pooler, "mask_head.pooler"),
    }
    for name, (head, pooler, key) in heads.items():
        off = name == "mask_head" and head.name == "none"
        if not off and head.norm != "none" and head.num_convs > 0 and pooler.resolution == 1:
            raise UserError(
                f"{name}.norm={head.norm} has one value a channel with {key}.resolution=1; "
                f"set {key}.resolution to at least 2"
            )
    widths = {
        "backbone.fpn_channels": (config.backbone.fpn_norm, config.backbone.fpn_channels),
        "roi_head.conv_dim": (config.roi_head.norm, config.roi_head.conv_dim),
        "mask_head.conv_dim": (config.mask_head.norm, config.mask_head.conv_dim),
    }
    for key, (norm, width) in widths.items():
        if norm == "group" and width % min(32, width):
            raise UserError(f"{key}={width} cannot be split into 32 groups for group norm; use a multiple of 32")


def backbone_norm(config: Any) -> str:
    """What `backbone.norm=auto` stands for: frozen with pretrained weights, else batch; of timm its own, auto."""
    section = config.backbone
    if section.norm != "auto" or section.name == "timm":
        return str(section.norm)
    return "batch" if config.weights.source == "none" else "frozen"


def _idle_model_settings(config: Any) -> list[str]:
    warnings = []
    poolers = {"pooler": config.pooler}
    if config.mask_head.name != "none":
        poolers["mask_head.pooler"] = config.mask_head.pooler
    for key, pooler in poolers.items():
        if pooler.type == "pool" and (pooler.sampling_ratio or pooler.aligned):
            warnings.append(f"{key}.sampling_ratio and {key}.aligned have no effect with {key}.type=pool")
    if config.roi_head.num_convs == 0 and config.roi_head.norm != "none":
        warnings.append(f"roi_head.norm={config.roi_head.norm} has no effect without convs (roi_head.num_convs=0)")
    if config.mask_head.name != "none" and config.mask_head.num_convs == 0 and config.mask_head.norm != "none":
        warnings.append(f"mask_head.norm={config.mask_head.norm} has no effect without convs (mask_head.num_convs=0)")
    nms = config.rpn.nms
    for stage in ("train", "test"):
        before, after = getattr(nms, f"pre_{stage}"), getattr(nms, f"post_{stage}")
        if after > before * len(FPN_LEVELS):
            warnings.append(
                f"rpn.nms.post_{stage}={after} is never reached: pre_{stage}={before} on each of "
                f"{len(FPN_LEVELS)} levels gives at most {before * len(FPN_LEVELS)} proposals"
            )
    return warnings


def check_data_rules(data: DataConfig, splits: Sequence[str] = ("train", "val")) -> None:
    """Raises UserError if the data section lacks a path that its layout needs for these splits."""
    if data.min_size > data.max_size:
        raise UserError(f"data.min_size={data.min_size} must not exceed data.max_size={data.max_size}")
    if data.name in ("coco", "roboflow") and data.root is None:
        raise UserError(
            f"data.root is not set; data={data.name} needs the folder of the data set: data.root=/path/to/it"
        )
    if data.name == "custom":
        for split in ["train"] if data.split.fractions else splits:
            paths = getattr(data, split)
            for key in ("images", "annotations"):
                if getattr(paths, key) is None:
                    raise UserError(
                        f"data.{split}.{key} is not set; data=custom needs data.{split}.images=FOLDER and "
                        f"data.{split}.annotations=FILE.json"
                    )
    if data.split.fractions is not None:
        check_fractions("data.split.fractions", data.split.fractions)


def check_fractions(key: str, fractions: Sequence[float]) -> None:
    """Raises UserError unless these are the shares of all parts of a split."""
    if len(fractions) not in (2, 3) or abs(sum(fractions) - 1) > 1e-6 or min(fractions) <= 0:
        raise UserError(
            f"{key}={fractions} must be two or three numbers above 0 that add up to 1: [train,val] or [train,val,test]"
        )


def _check_weights(config: TrainConfig) -> list[str]:
    source, path, backbone = config.weights.source, config.weights.path, config.backbone
    warnings = []
    if source in ("file", "detectron2") and path is None:
        raise UserError(f"weights.path is not set; weights={source} needs the file to load: weights.path=FILE")
    if source not in ("file", "detectron2") and path is not None:
        warnings.append(f"weights.path has no effect with weights={source}; did you mean weights=file?")
    if source in ("none", "imagenet") and config.weights.class_map:
        warnings.append(f"weights.class_map has no effect with weights={source}, which has no classes")
    if backbone.norm == "frozen" and source == "none":
        warnings.append("backbone.norm=frozen without pretrained weights keeps every norm at its initial identity")
    if backbone.name == "timm" and backbone.timm_name is None:
        raise UserError("backbone.timm_name is not set; backbone=timm needs it, e.g. backbone.timm_name=convnext_tiny")
    if backbone.name == "timm" and backbone.norm in ("batch", "group"):
        raise UserError(f"backbone.norm={backbone.norm} cannot be set for a model of timm; use auto or frozen")
    if backbone.name != "timm" and backbone.timm_name is not None:
        warnings.append(f"backbone.timm_name has no effect with backbone={backbone.name}; add backbone=timm")
    return warnings


def _check_augmentation(config: TrainConfig) -> list[str]:
    augmentation, warnings = config.augmentation, []
    if augmentation.scale_jitter is not None:
        if len(augmentation.scale_jitter) != 2:
            raise UserError("augmentation.scale_jitter needs two numbers: [smallest, largest] scale")
        if augmentation.scale_jitter[0] > augmentation.scale_jitter[1]:
            raise UserError(f"augmentation.scale_jitter={augmentation.scale_jitter} must be [smallest, largest] scale")
        if augmentation.min_crop < 1:
            warnings.append("augmentation.min_crop has no effect with augmentation.scale_jitter, which crops already")
    if augmentation.copy_paste and config.mask_head.name == "none":
        warnings.append("augmentation.copy_paste has no effect with mask_head=none: objects are cut out by their masks")
    return warnings


def check_train_rules(config: TrainConfig) -> list[str]:
    """All rules between the settings of a training; returns warnings for settings without effect.

    Raises UserError for settings that contradict each other.
    """
    warnings = check_model_rules(config)
    check_data_rules(config.data)
    warnings += _check_weights(config)
    warnings += _check_augmentation(config)
    _check_smallest_batch(config)
    betas = config.optimizer.betas
    if config.optimizer.name == "adamw" and (len(betas) != 2 or max(betas) >= 1):
        raise UserError(f"optimizer.betas={betas} must be two numbers below 1, e.g. [0.9,0.999]")
    if config.trainer.device not in ("auto", "cpu", "cuda") and not config.trainer.device.startswith("cuda:"):
        raise UserError(f"trainer.device={config.trainer.device} is not a device; use auto, cpu, cuda or cuda:N")
    check_measures(config.evaluation)
    return warnings


def _check_smallest_batch(config: TrainConfig) -> None:
    """Raises UserError where a batch norm of the deepest level, at a stride of 32, may get one value a channel."""
    side = min(min(config.augmentation.min_sizes or [config.data.min_size]), config.data.max_size)
    if side > 32 or config.trainer.batch_size > 1:
        return
    for key, norm in (("norm", backbone_norm(config)), ("fpn_norm", config.backbone.fpn_norm)):
        if norm == "batch":
            raise UserError(
                f"images of {side} pixels leave backbone.{key}=batch one value a channel with trainer.batch_size=1; "
                "set data.min_size and data.max_size to at least 64"
            )


IDLE = (  # keys without effect, or the start of such keys; the setting, and its values, that make them so
    ("optimizer.momentum", "optimizer.name", ("adamw",)),
    ("optimizer.betas", "optimizer.name", ("sgd",)),
    ("optimizer.reference_batch_size", "optimizer.scale_lr", (False,)),
    ("schedule.milestones", "schedule.name", ("cosine", "constant")),
    ("schedule.gamma", "schedule.name", ("cosine", "constant")),
    ("schedule.final_factor", "schedule.name", ("multistep", "constant")),
    ("trainer.early_stopping", "trainer.evaluate_every", (0,)),
    ("trainer.max_skipped", "trainer.on_nonfinite", ("stop",)),
    ("mask_head.", "mask_head.name", ("none",)),
)


def idle_keys(config: TrainConfig, given: Sequence[str]) -> list[str]:
    """A warning for each key of `given` that has no effect beside the other settings."""
    warnings = []
    for key in given:
        for start, cause, values in IDLE:
            value: Any = reduce(getattr, cause.split("."), config)
            if key != cause and (key == start or (start.endswith(".") and key.startswith(start))) and value in values:
                warnings.append(f"{key} has no effect with {cause.removesuffix('.name')}={str(value).lower()}")
    return warnings


def check_measures(section: EvaluationConfig | MeasuresConfig) -> None:
    """Raises UserError for values of the `evaluation` section that COCO's evaluators do not support."""
    draws = getattr(section, "bootstrap", 0)
    if 0 < draws < 100:
        raise UserError(
            f"evaluation.bootstrap={draws} is too few for an interval; use at least 100, or 0 for no interval"
        )
    counts, ious, sizes = section.max_detections, section.iou_thresholds, section.size_limits
    if counts is not None and (len(counts) != 3 or sorted(set(counts)) != list(counts)):
        raise UserError("evaluation.max_detections needs three ascending numbers, e.g. [1,10,100]")
    if ious is not None and (not ious or sorted(set(ious)) != list(ious)):
        raise UserError("evaluation.iou_thresholds needs ascending numbers, e.g. [0.5,0.75]")
    if sizes is not None and (len(sizes) != 2 or sizes[0] >= sizes[1]):
        raise UserError("evaluation.size_limits needs two ascending sides in image pixels, e.g. [32,96]")
