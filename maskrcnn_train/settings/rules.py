"""Checks of a configuration: ranges of single values, and rules between those of a training.

Called by `load_config`; past it every value is known to be usable. This module never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
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
    for number in value if isinstance(value, list) else [value]:
        low, high, above = rule.get("low"), rule.get("high"), rule.get("above")
        if number != number:
            raise UserError(f"{key}={value} is not a number")
        if above is not None and number <= above:
            raise UserError(f"{key}={value} is out of range; it must be above {above}")
        if (low is not None and number < low) or (high is not None and number > high):
            raise UserError(f"{key}={value} is out of range; it must be {_range_text(low, high)}")


def _range_text(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"from {low} to {high}"


def check_model_rules(config: Any) -> list[str]:
    """Raises UserError where model settings contradict each other; return warnings for idle ones.

    `config` is any config with the model sections (`rpn`, `roi_head`, `pooler`, `mask_head`, ...).
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
    if config.backbone.norm == "batch" and config.backbone.norm_eps == 0:
        raise UserError("backbone.norm_eps=0 divides by zero with backbone.norm=batch; set backbone.norm_eps=1.0e-5")
    _check_group_norm(config)
    return _idle_model_settings(config)


def _check_group_norm(config: Any) -> None:
    widths = {
        "backbone.fpn_channels": (config.backbone.fpn_norm, config.backbone.fpn_channels),
        "roi_head.conv_dim": (config.roi_head.norm, config.roi_head.conv_dim),
        "mask_head.conv_dim": (config.mask_head.norm, config.mask_head.conv_dim),
    }
    for key, (norm, width) in widths.items():
        if norm == "group" and width % min(32, width):
            raise UserError(f"{key}={width} cannot be split into 32 groups for group norm; use a multiple of 32")


def _idle_model_settings(config: Any) -> list[str]:
    warnings = []
    poolers = {"pooler": config.pooler}
    if config.mask_head.enabled:
        poolers["mask_head.pooler"] = config.mask_head.pooler
    for key, pooler in poolers.items():
        if pooler.type == "pool" and (pooler.sampling_ratio or pooler.aligned):
            warnings.append(f"{key}.sampling_ratio and {key}.aligned have no effect with {key}.type=pool")
    if config.roi_head.num_convs == 0 and config.roi_head.norm != "none":
        warnings.append(f"roi_head.norm={config.roi_head.norm} has no effect without convs (roi_head.num_convs=0)")
    if config.mask_head.enabled and config.mask_head.num_convs == 0 and config.mask_head.norm != "none":
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
    """Raises UserError where the data section lacks what its layout needs for these splits."""
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
    if data.split.fractions is not None and (
        len(data.split.fractions) not in (2, 3) or abs(sum(data.split.fractions) - 1) > 1e-6
    ):
        raise UserError(
            f"data.split.fractions={data.split.fractions} must be two or three numbers that add up to 1: "
            "[train,val] or [train,val,test]"
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
        if augmentation.min_crop < 1:
            warnings.append("augmentation.min_crop has no effect with augmentation.scale_jitter, which crops already")
    if augmentation.copy_paste and not config.mask_head.enabled:
        warnings.append("augmentation.copy_paste has no effect with mask_head=none: objects are cut out by their masks")
    return warnings


def check_train_rules(config: TrainConfig) -> list[str]:
    """All rules between the settings of a training; returns warnings for settings without effect."""
    warnings = check_model_rules(config)
    check_data_rules(config.data)
    warnings += _check_weights(config)
    warnings += _check_augmentation(config)
    if config.optimizer.name == "adamw" and len(config.optimizer.betas) != 2:
        raise UserError("optimizer.betas needs two numbers, e.g. [0.9,0.999]")
    if config.trainer.device not in ("auto", "cpu", "cuda") and not config.trainer.device.startswith("cuda:"):
        raise UserError(f"trainer.device={config.trainer.device} is not a device; use auto, cpu, cuda or cuda:N")
    check_measures(config.evaluation)
    return warnings


def check_measures(section: EvaluationConfig | MeasuresConfig) -> None:
    """Raises UserError where the `evaluation` section gives what COCO's evaluators do not take."""
    draws = getattr(section, "bootstrap", 0)
    if 0 < draws < 100:
        raise UserError(f"evaluation.bootstrap={draws} is too few for an interval; draw at least 100 times, or 0: none")
    counts, ious, sizes = section.max_detections, section.iou_thresholds, section.size_limits
    if counts is not None and (len(counts) != 3 or sorted(counts) != list(counts)):
        raise UserError("evaluation.max_detections needs three ascending numbers, e.g. [1,10,100]")
    if ious is not None and (not ious or sorted(set(ious)) != list(ious)):
        raise UserError("evaluation.iou_thresholds needs ascending numbers, e.g. [0.5,0.75]")
    if sizes is not None and (len(sizes) != 2 or sizes[0] >= sizes[1]):
        raise UserError("evaluation.size_limits needs two ascending sides in image pixels, e.g. [32,96]")
