"""The schema of every setting: names, types, units, ranges, and the rules between them.

Types live here once, values in `conf/` once: no field has a default. `check_values` and
`check_rules` are called by `load_config`; past it every value is known to be usable.
This module never imports torch, so that a mistyped key stops within a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Optional, Union

RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
FPN_LEVELS = ("P2", "P3", "P4", "P5", "P6")


def one_of(*options: str | int | None) -> Any:
    """A field that takes one of a few values."""
    return field(metadata={"options": options})


def between(low: float | None = None, high: float | None = None) -> Any:
    """A number, or a list of numbers, with low <= value <= high; either side may be open."""
    return field(metadata={"low": low, "high": high})


def positive() -> Any:
    """A number, or a list of numbers, above zero."""
    return field(metadata={"above": 0})


def fraction() -> Any:
    """A number from 0 to 1."""
    return between(0, 1)


# ---------------------------------------------------------------- the model


@dataclass(kw_only=True)
class BackboneConfig:
    name: str = one_of(*RESNETS)
    norm: str = one_of("auto", "frozen", "batch", "group")
    norm_eps: float = between(0)
    trainable_stages: Union[int, str] = one_of("auto", 0, 1, 2, 3, 4, 5)
    fpn_channels: int = between(1)
    fpn_norm: str = one_of("none", "batch", "group")


@dataclass(kw_only=True)
class WeightsConfig:
    source: str = one_of("none", "imagenet", "coco", "coco_v2", "detectron2", "file")
    path: Optional[str]
    class_map: Optional[dict[str, str]]


@dataclass(kw_only=True)
class AnchorsConfig:
    sizes: list[float] = positive()
    aspect_ratios: list[float] = positive()


@dataclass(kw_only=True)
class IoUConfig:
    upper: float = fraction()
    lower: float = fraction()


@dataclass(kw_only=True)
class SamplingConfig:
    batch_size: int = between(1)
    positive_fraction: float = fraction()


@dataclass(kw_only=True)
class ProposalNMSConfig:
    pre_train: int = between(1)
    pre_test: int = between(1)
    post_train: int = between(1)
    post_test: int = between(1)
    train_scope: str = one_of("image", "batch")
    threshold: float = fraction()


@dataclass(kw_only=True)
class RPNConfig:
    num_convs: int = between(1)
    anchors: AnchorsConfig
    iou: IoUConfig
    sampling: SamplingConfig
    nms: ProposalNMSConfig


@dataclass(kw_only=True)
class ROIHeadConfig:
    num_convs: int = between(0)
    conv_dim: int = between(1)
    num_fcs: int = between(0)
    fc_dim: int = between(1)
    norm: str = one_of("none", "batch", "group")
    iou: float = fraction()
    sampling: SamplingConfig
    score_threshold: float = fraction()
    nms_threshold: float = fraction()
    detections_per_image: int = between(1)


@dataclass(kw_only=True)
class PoolerConfig:
    type: str = one_of("align", "pool")
    resolution: int = between(1)
    sampling_ratio: int = between(0)
    aligned: bool


@dataclass(kw_only=True)
class MaskHeadConfig:
    name: str = one_of("conv4", "none")
    num_convs: int = between(0)
    conv_dim: int = between(1)
    norm: str = one_of("none", "batch", "group")
    threshold: float = fraction()
    pooler: PoolerConfig


@dataclass(kw_only=True)
class NumericsConfig:
    name: str = one_of("torchvision", "detectron2")
    anchor_rounding: bool
    anchor_strides: str = one_of("inferred", "fixed")
    rpn_smooth_l1_beta: float = between(0)
    roi_smooth_l1_beta: float = between(0)
    rpn_normalizer: str = one_of("sampled", "batch_size")
    level_assignment: str = one_of("torchvision", "detectron2")
    min_proposal_size: float = between(0)
    min_detection_size: float = between(0)
    mask_targets: str = one_of("soft", "binary")
    mask_paste: str = one_of("integer", "continuous")
    stride_in: str = one_of("3x3", "1x1")
    pixel_mean: list[float] = between(0)
    pixel_std: list[float] = positive()


# ---------------------------------------------------------------- the data


@dataclass(kw_only=True)
class SplitPathsConfig:
    images: Optional[str]
    annotations: Optional[str]


@dataclass(kw_only=True)
class SplitConfig:
    fractions: Optional[list[float]] = fraction()
    seed: int = between(0)


@dataclass(kw_only=True)
class ShapesConfig:
    num_train: int = between(1)
    num_val: int = between(1)
    num_test: int = between(1)
    image_size: int = between(32)
    seed: int = between(0)


@dataclass(kw_only=True)
class DataConfig:
    name: str = one_of("shapes", "coco", "roboflow", "custom")
    root: Optional[str]
    train: SplitPathsConfig
    val: SplitPathsConfig
    test: SplitPathsConfig
    split: SplitConfig
    shapes: ShapesConfig
    min_size: int = between(16)
    max_size: int = between(16)
    keep_empty: bool
    on_bad_image: str = one_of("error", "skip")


@dataclass(kw_only=True)
class AugmentationConfig:
    horizontal_flip: float = fraction()
    vertical_flip: float = fraction()
    min_sizes: Optional[list[int]] = between(16)
    scale_jitter: Optional[list[float]] = positive()
    color_jitter: float = fraction()


# ---------------------------------------------------------------- training


@dataclass(kw_only=True)
class OptimizerConfig:
    name: str = one_of("sgd", "adamw")
    lr: float = positive()
    weight_decay: float = between(0)
    norm_weight_decay: Optional[float] = between(0)
    momentum: float = fraction()
    betas: list[float] = fraction()
    scale_lr: bool
    reference_batch_size: int = between(1)


@dataclass(kw_only=True)
class ScheduleConfig:
    name: str = one_of("multistep", "cosine", "constant")
    warmup_steps: int = between(0)
    warmup_factor: float = fraction()
    milestones: list[float] = fraction()
    gamma: float = fraction()
    final_factor: float = fraction()


@dataclass(kw_only=True)
class TrainerConfig:
    device: str
    batch_size: int = between(1)
    num_workers: int = between(0)
    epochs: int = between(1)
    max_steps: Optional[int] = between(1)
    max_minutes: Optional[float] = positive()
    precision: str = one_of("auto", "fp32", "bf16", "fp16")
    channels_last: bool
    accumulate: int = between(1)
    clip_norm: float = between(0)
    ema: float = fraction()
    interval_unit: str = one_of("epoch", "step")
    evaluate_every: int = between(0)
    checkpoint_every: int = between(0)
    early_stopping: int = between(0)
    log_every: int = between(1)
    deterministic: bool


@dataclass(kw_only=True)
class EvaluationConfig:
    backend: str = one_of("hotcoco", "faster_coco_eval", "pycocotools")
    max_detections: list[int] = between(1)
    batch_size: int = between(1)
    pictures: int = between(0)
    picture_threshold: float = fraction()


@dataclass(kw_only=True)
class TrainConfig:
    """Everything that `python -m maskrcnn_train` reads."""

    backbone: BackboneConfig
    weights: WeightsConfig
    rpn: RPNConfig
    roi_head: ROIHeadConfig
    pooler: PoolerConfig
    mask_head: MaskHeadConfig
    numerics: NumericsConfig
    data: DataConfig
    augmentation: AugmentationConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    resume: Optional[str]
    output_dir: Optional[str]
    seed: int = between(0)


# ---------------------------------------------------------------- checks


def check_values(section: Any, prefix: str = "") -> None:
    """Raise ValueError for the first value outside its options or range, naming its full key."""
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
        if value not in rule["options"]:
            options = ", ".join(str(option) for option in rule["options"])
            raise ValueError(f"{key}={value} is not an option; choose one of {options}")
        return
    for number in value if isinstance(value, list) else [value]:
        low, high, above = rule.get("low"), rule.get("high"), rule.get("above")
        if number != number:
            raise ValueError(f"{key}={value} is not a number")
        if above is not None and number <= above:
            raise ValueError(f"{key}={value} is out of range; it must be above {above}")
        if (low is not None and number < low) or (high is not None and number > high):
            raise ValueError(f"{key}={value} is out of range; it must be {_range_text(low, high)}")


def _range_text(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"from {low} to {high}"


def check_model_rules(config: Any) -> list[str]:
    """Raise ValueError where model settings contradict each other; return warnings for idle ones.

    `config` is any config with the model sections (`rpn`, `roi_head`, `pooler`, `mask_head`, ...).
    """
    iou, anchors, head = config.rpn.iou, config.rpn.anchors, config.roi_head
    if iou.lower >= iou.upper:
        raise ValueError(
            f"rpn.iou.lower={iou.lower} must be below rpn.iou.upper={iou.upper}; "
            f"lower it, e.g. rpn.iou.lower={max(0.0, round(iou.upper - 0.4, 2))}"
        )
    if len(anchors.sizes) != len(FPN_LEVELS):
        raise ValueError(
            f"rpn.anchors.sizes={anchors.sizes} has {len(anchors.sizes)} sizes; "
            f"give one for each of the {len(FPN_LEVELS)} FPN levels ({', '.join(FPN_LEVELS)})"
        )
    if not anchors.aspect_ratios:
        raise ValueError("rpn.anchors.aspect_ratios is empty; give at least one ratio, e.g. [0.5,1,2]")
    if head.num_convs == 0 and head.num_fcs == 0:
        raise ValueError(
            "roi_head.num_convs=0 and roi_head.num_fcs=0 leave the ROI box head empty; set at least one of them above 0"
        )
    if len(config.numerics.pixel_mean) != 3 or len(config.numerics.pixel_std) != 3:
        raise ValueError("numerics.pixel_mean and numerics.pixel_std need three values each, for R, G, B")
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
            raise ValueError(f"{key}={width} cannot be split into 32 groups for group norm; use a multiple of 32")


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


def check_data_rules(data: DataConfig) -> None:
    """Raise ValueError where the data section lacks what its layout needs."""
    if data.min_size > data.max_size:
        raise ValueError(f"data.min_size={data.min_size} must not exceed data.max_size={data.max_size}")
    if data.name in ("coco", "roboflow") and data.root is None:
        raise ValueError(
            f"data.root is not set; data={data.name} needs the folder of the data set: data.root=/path/to/it"
        )
    if data.name == "custom":
        splits = ["train"] if data.split.fractions else ["train", "val"]
        for split in splits:
            paths = getattr(data, split)
            for key in ("images", "annotations"):
                if getattr(paths, key) is None:
                    raise ValueError(
                        f"data.{split}.{key} is not set; data=custom needs data.{split}.images=FOLDER and "
                        f"data.{split}.annotations=FILE.json"
                    )
    if data.split.fractions is not None and (
        len(data.split.fractions) not in (2, 3) or abs(sum(data.split.fractions) - 1) > 1e-6
    ):
        raise ValueError(
            f"data.split.fractions={data.split.fractions} must be two or three numbers that add up to 1: "
            "[train,val] or [train,val,test]"
        )


def check_train_rules(config: TrainConfig) -> list[str]:
    """All rules between the settings of a training; returns warnings for settings without effect."""
    warnings = check_model_rules(config)
    check_data_rules(config.data)
    source, path = config.weights.source, config.weights.path
    if source in ("file", "detectron2") and path is None:
        raise ValueError(f"weights.path is not set; weights={source} needs the file to load: weights.path=FILE")
    if source not in ("file", "detectron2") and path is not None:
        warnings.append(f"weights.path has no effect with weights={source}; did you mean weights=file?")
    if config.backbone.norm == "frozen" and source == "none":
        warnings.append("backbone.norm=frozen without pretrained weights keeps every norm at its initial identity")
    if config.augmentation.scale_jitter is not None and len(config.augmentation.scale_jitter) != 2:
        raise ValueError("augmentation.scale_jitter needs two numbers: [smallest, largest] scale")
    if config.optimizer.name == "adamw" and len(config.optimizer.betas) != 2:
        raise ValueError("optimizer.betas needs two numbers, e.g. [0.9,0.999]")
    if config.trainer.device not in ("auto", "cpu", "cuda") and not config.trainer.device.startswith("cuda:"):
        raise ValueError(f"trainer.device={config.trainer.device} is not a device; use auto, cpu, cuda or cuda:N")
    if len(config.evaluation.max_detections) != 3 or sorted(config.evaluation.max_detections) != list(
        config.evaluation.max_detections
    ):
        raise ValueError("evaluation.max_detections needs three ascending numbers, e.g. [1,10,100]")
    return warnings
