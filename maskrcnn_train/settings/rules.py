"""Checks of a configuration: the range of each value, and the rules between the settings of a training.

`load_config` calls them, so other code need not check values again. This module never imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import FPN_LEVELS, DataConfig, EvaluationConfig, TrainConfig, TrainerConfig

if TYPE_CHECKING:
    from maskrcnn_train.settings.command_schema import MeasuresConfig

DEEPEST = 32  # stride of the backbone's deepest level


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
    values = value if isinstance(value, list) else [value]
    if "paths" in rule:
        if not values or not all(isinstance(each, (str, int, float)) for each in values):
            raise UserError(f"{key}={value} is neither a path nor a list of paths; write {key}=[A,B]")
        return
    if "options" in rule:
        if wrong := [each for each in values if each not in rule["options"]]:
            options = ", ".join(map(str, rule["options"]))
            raise UserError(f"{key}={wrong[0]} is not an option; choose one of {options}")
        return
    if not all(map(math.isfinite, values)):
        raise UserError(f"{key}={value} is not a finite number")
    low, high, is_open = rule["low"], rule["high"], rule["open"]
    if any(number < low or (is_open and number == low) or (high is not None and number > high) for number in values):
        least, most = ("above", "and at most") if is_open else ("at least" if high is None else "from", "to")
        raise UserError(
            f"{key}={value} is out of range; it must be {least} {low}{'' if high is None else f' {most} {high}'}"
        )


def check_model_rules(config: Any) -> list[str]:
    """Rules between the settings of the model; returns warnings for settings without effect.

    config: any configuration with the sections of the model. Raises UserError for settings that contradict each other.
    """
    iou, anchors, head = config.rpn.iou, config.rpn.anchors, config.roi_head
    if iou.lower > iou.upper:
        lower = max(0.0, round(iou.upper - 0.4, 2))
        raise UserError(f"rpn.iou.lower={iou.lower} is above rpn.iou.upper={iou.upper}; lower it to e.g. {lower}")
    if len(anchors.sizes) != len(FPN_LEVELS):
        raise UserError(
            f"rpn.anchors.sizes={anchors.sizes} has {len(anchors.sizes)} sizes; "
            f"give one for each of the {len(FPN_LEVELS)} FPN levels ({', '.join(FPN_LEVELS)})"
        )
    if not anchors.aspect_ratios:
        raise UserError("rpn.anchors.aspect_ratios is empty; give at least one ratio, e.g. [0.5,1,2]")
    if head.num_convs == 0 and head.num_fcs == 0:
        raise UserError("roi_head.num_convs=0 and roi_head.num_fcs=0 leave the ROI box head empty; raise one of them")
    _check_channels(config)
    _check_norms(config)
    return _idle_model_settings(config)


def _check_channels(config: Any) -> None:
    count, shown = config.data.channels, config.data.picture_channels
    for key in ("pixel_mean", "pixel_std"):
        if len(values := getattr(config.numerics, key)) != count:
            raise UserError(
                f"numerics.{key} has {len(values)} values for data.channels={count}; give one for each channel. "
                "The same command with maskrcnn_train.check measures them"
            )
    if shown is not None and (len(shown) not in (1, 3) or max(shown) > count):
        raise UserError(f"data.picture_channels={shown} must be one or three numbers from 1 to {count}")


def _heads(config: Any) -> list[tuple[str, Any, str, Any]]:
    """Name, section, and the same of its pooler, of each head of the model."""
    heads = [("roi_head", config.roi_head, "pooler", config.pooler)]
    if config.mask_head.enabled:
        heads.append(("mask_head", config.mask_head, "mask_head.pooler", config.mask_head.pooler))
    return heads


def _check_norms(config: Any) -> None:
    backbone, roi_head, mask_head = config.backbone, config.roi_head, config.mask_head
    for key, norm in (("backbone.norm", backbone_norm(config)), ("backbone.fpn_norm", backbone.fpn_norm)):
        if norm in ("batch", "group") and backbone.norm_eps == 0:
            raise UserError(f"backbone.norm_eps=0 divides by zero with {key}={norm}; set backbone.norm_eps=1.0e-5")
    for name, head, key, pooler in _heads(config):
        if head.norm != "none" and head.num_convs > 0 and pooler.resolution == 1:
            raise UserError(f"{name}.norm={head.norm} has one value a channel with {key}.resolution=1; set at least 2")
    for key, norm, width in (
        ("backbone.fpn_channels", backbone.fpn_norm, backbone.fpn_channels),
        ("roi_head.conv_dim", roi_head.norm, roi_head.conv_dim),
        ("mask_head.conv_dim", mask_head.norm, mask_head.conv_dim),
    ):
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
    for name, head, key, pooler in _heads(config):
        if pooler.type == "pool" and (pooler.sampling_ratio or pooler.aligned):
            warnings.append(f"{key}.sampling_ratio and {key}.aligned have no effect with {key}.type=pool")
        if head.num_convs == 0 and head.norm != "none":
            warnings.append(f"{name}.norm={head.norm} has no effect without convs ({name}.num_convs=0)")
    for stage in ("train", "test"):
        before, after = (getattr(config.rpn.nms, f"{when}_{stage}") for when in ("pre", "post"))
        if after > (most := before * len(FPN_LEVELS)):
            warnings.append(
                f"rpn.nms.post_{stage}={after} is never reached: pre_{stage}={before} on each of "
                f"{len(FPN_LEVELS)} levels gives at most {most} proposals"
            )
    return warnings


def check_data_rules(data: DataConfig, splits: Sequence[str] = ("train", "val")) -> None:
    """Raises UserError if the data section lacks a path that its layout needs for these splits."""
    if data.min_size > data.max_size:
        raise UserError(f"data.min_size={data.min_size} must not exceed data.max_size={data.max_size}")
    if data.name not in ("custom", "shapes") and data.root is None and data.train.annotations is None:
        raise UserError(f"data.root is not set; data={data.name} needs the folder of the data: data.root=FOLDER")
    if data.name == "custom":
        for split in ["train"] if data.split.fractions else splits:
            section = getattr(data, split)
            for key, value in vars(section).items():
                if value is None and (key == "annotations" or is_json(section.annotations)):
                    raise UserError(
                        f"data.{split}.{key} is not set; data=custom needs data.{split}.images=FOLDER and "
                        f"data.{split}.annotations=FILE.json"
                    )
    if data.split.fractions is not None:
        check_fractions("data.split.fractions", data.split.fractions)


def is_json(annotations: Any) -> bool:
    """Whether labels may be a COCO JSON, which does not say where its images are."""
    paths = annotations if isinstance(annotations, list) else [annotations]
    return any(path is None or str(path).lower().endswith(".json") for path in paths)


def check_fractions(key: str, fractions: Sequence[float]) -> None:
    """Raises UserError unless these are the shares of all parts of a split."""
    if len(fractions) not in (2, 3) or abs(sum(fractions) - 1) > 1e-6 or min(fractions) <= 0:
        raise UserError(
            f"{key}={fractions} must be two or three numbers above 0 that add up to 1: [train,val] or [train,val,test]"
        )


def _check_weights(config: TrainConfig) -> list[str]:
    source, path, backbone, warnings = config.weights.source, config.weights.path, config.backbone, []
    if source in ("file", "detectron2"):
        if path is None:
            raise UserError(f"weights.path is not set; weights={source} needs the file to load: weights.path=FILE")
    elif path is not None:
        warnings.append(f"weights.path has no effect with weights={source}; did you mean weights=file?")
    if source in ("none", "imagenet") and config.weights.class_map:
        warnings.append(f"weights.class_map has no effect with weights={source}, which has no classes")
    if backbone.name == "timm":
        if backbone.timm_name is None:
            raise UserError("backbone.timm_name is not set; give the model, e.g. backbone.timm_name=convnext_tiny")
        if backbone.norm in ("batch", "group"):
            raise UserError(f"backbone.norm={backbone.norm} cannot be set for a model of timm; use auto or frozen")
    elif backbone.timm_name is not None:
        warnings.append(f"backbone.timm_name has no effect with backbone={backbone.name}; add backbone=timm")
    return warnings


def _check_augmentation(config: TrainConfig) -> list[str]:
    augmentation, jitter, warnings = config.augmentation, config.augmentation.scale_jitter, []
    if jitter is not None:
        if len(jitter) != 2 or jitter[0] > jitter[1]:
            raise UserError(f"augmentation.scale_jitter={jitter} must be two numbers: [smallest, largest] scale")
        if augmentation.min_crop < 1:
            warnings.append("augmentation.min_crop has no effect with augmentation.scale_jitter, which crops already")
    if augmentation.start_scale < 1 and (config.trainer.compile or config.trainer.capture):
        which = "capture" if config.trainer.capture else "compile"
        warnings.append(f"trainer.{which} serves only the first, small shapes; set augmentation.start_scale=1")
    if augmentation.copy_paste and not config.mask_head.enabled:
        warnings.append("augmentation.copy_paste has no effect with mask_head=none: objects are cut out by their masks")
    kind = f"data.channels={config.data.channels} data.bits={config.data.bits}"
    if augmentation.color_jitter and not config.data.is_rgb:
        warnings.append(f"augmentation.color_jitter has no effect with {kind}: it is for 8-bit R G B")
    if config.data.picture_channels is not None and config.data.is_rgb:
        warnings.append(f"data.picture_channels has no effect with {kind}, which are shown as they are")
    return warnings


def check_train_rules(config: TrainConfig, splits: Sequence[str] = ("train", "val")) -> list[str]:
    """All rules between the settings of a training; returns warnings for settings without effect.

    splits: that the data must have. Raises UserError for settings that contradict each other.
    """
    warnings = check_model_rules(config)
    check_data_rules(config.data, splits)
    warnings += _check_weights(config) + _check_augmentation(config)
    if max(mean := config.numerics.pixel_mean) > 1:
        highest = 2**config.data.bits - 1
        raise UserError(
            f"numerics.pixel_mean={mean} exceeds 1, as which the highest pixel value counts; "
            f"divide numerics.pixel_mean and numerics.pixel_std by {highest}"
        )
    _check_smallest_images(config)
    _check_sampling(config)
    betas = config.optimizer.betas
    if config.optimizer.name != "sgd" and (len(betas) != 2 or max(betas) >= 1):
        raise UserError(f"optimizer.betas={betas} must be two numbers below 1, e.g. [0.9,0.999]")
    if config.trainer.device not in ("auto", "cpu", "cuda") and not config.trainer.device.startswith("cuda:"):
        raise UserError(f"trainer.device={config.trainer.device} is not a device; use auto, cpu, cuda or cuda:N")
    if config.trainer.capture and (config.trainer.accumulate > 1 or config.trainer.checkpoint_activations):
        beside = "accumulate=1" if config.trainer.accumulate > 1 else "checkpoint_activations=false"
        raise UserError(f"trainer.capture=true needs trainer.{beside}")
    check_measures(config.evaluation)
    return warnings + _every_step(config.trainer)


def _every_step(trainer: TrainerConfig) -> list[str]:
    """Warnings of intervals that were meant as epochs, most likely: 1 is their default."""
    if trainer.interval_unit == "epoch":
        return []
    keys = [key for key in ("evaluate_every", "checkpoint_every") if getattr(trainer, key) == 1]
    return [
        f"trainer.{key}=1 with trainer.interval_unit=step is after every step; set e.g. trainer.{key}=500"
        for key in keys
    ]


def _check_smallest_images(config: TrainConfig) -> None:
    """Raises UserError where a norm of the deepest level may get one value a channel.

    The last batch of an epoch may have one image, and so has a prediction.
    """
    scale = config.augmentation.start_scale
    side = round(scale * min(*(config.augmentation.min_sizes or [config.data.min_size]), config.data.max_size))
    if side <= least_side(config):
        least = f"data.min_size and data.max_size to at least {round(2 * DEEPEST / scale)}"
        raise UserError(f"images of {side} pixels leave {_norm_over_pixels(config)} one value a channel; set {least}")


def least_side(config: TrainConfig) -> int:
    """The side that all images must exceed when they are smallest, so that each norm has several values a channel."""
    return DEEPEST if _norm_over_pixels(config) else 0


def _norm_over_pixels(config: TrainConfig) -> str | None:
    """The key and value of a norm whose statistics are of the pixels of a channel, or of a few channels."""
    for key, norm in (("norm", backbone_norm(config)), ("fpn_norm", config.backbone.fpn_norm)):
        if norm == "batch" or (key == "fpn_norm" and norm == "group" and config.backbone.fpn_channels <= 32):
            return f"backbone.{key}={norm}"
    return None


def _check_sampling(config: TrainConfig) -> None:
    """Raises UserError where no object is ever sampled."""
    for key, sampling in (("rpn", config.rpn.sampling), ("roi_head", config.roi_head.sampling)):
        if int(sampling.batch_size * sampling.positive_fraction) == 0:
            raise UserError(
                f"{key}.sampling.positive_fraction={sampling.positive_fraction} of {key}.sampling.batch_size="
                f"{sampling.batch_size} leaves no place for an object; raise one of them"
            )


def check_measures(section: EvaluationConfig | MeasuresConfig) -> None:
    """Raises UserError for values of the `evaluation` section that COCO's evaluators do not support."""
    draws = getattr(section, "bootstrap", 0)
    if 0 < draws < 100:
        raise UserError(f"evaluation.bootstrap={draws} is too few for an interval; use at least 100, or 0 for none")
    counts, ious, sizes = section.max_detections, section.iou_thresholds, section.size_limits
    if counts is not None and (len(counts) != 3 or sorted(set(counts)) != list(counts)):
        raise UserError("evaluation.max_detections needs three ascending numbers, e.g. [1,10,100]")
    if ious is not None and (not ious or sorted(set(ious)) != list(ious)):
        raise UserError("evaluation.iou_thresholds needs ascending numbers, e.g. [0.5,0.75]")
    if sizes is not None and (len(sizes) != 2 or sizes[0] >= sizes[1]):
        raise UserError("evaluation.size_limits needs two ascending sides in image pixels, e.g. [32,96]")
