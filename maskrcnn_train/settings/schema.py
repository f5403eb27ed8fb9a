"""The schema of the training's settings: names, types, options and ranges. Rules between them are in `rules.py`.

Types stand here, values in `conf/`; no field has a default. This module never imports torch, so that a mistyped key
stops within a second.
"""

from typing import Any, Optional, Union

from maskrcnn_train.settings.fields import Section, between, fraction, one_of, paths, positive
from maskrcnn_train.settings.optimizers import OPTIMIZERS

RESNETS = (
    "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
EVALUATORS = ("hotcoco", "faster_coco_eval", "pycocotools")
LABEL_FORMATS = ("yolo", "labelme", "cvat", "label_studio", "voc", "instance_png", "mask_png")  # and coco
FPN_LEVELS = ("P2", "P3", "P4", "P5", "P6")
BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
LATENCY = "latency"  # a metric: milliseconds an image
MAX_SIDE = 100_000  # of an object, pixels
MAX_CHANNELS = 16
MAX_SEED = 2**32 - 1  # a larger one overflows the 64-bit seed of a training step


class BackboneConfig(Section):
    name: str = one_of(*RESNETS, "timm")
    timm_name: Optional[str]
    norm: str = one_of("auto", "frozen", "batch", "group")
    norm_eps: float = between(0)
    trainable_stages: Union[int, str] = one_of("auto", 0, 1, 2, 3, 4, 5)
    fpn_channels: int = between(1)
    fpn_norm: str = one_of("none", "batch", "group")


class WeightsConfig(Section):
    source: str = one_of("none", "imagenet", "coco", "coco_v2", "detectron2", "file")
    path: Optional[str]
    class_map: Optional[dict[str, str]]
    verify: bool


class AnchorsConfig(Section):
    sizes: list[float] = positive(MAX_SIDE)
    aspect_ratios: list[float] = positive(1000.0)


class IoUConfig(Section):
    upper: float = fraction()
    lower: float = fraction()


class SamplingConfig(Section):
    batch_size: int = between(1)
    positive_fraction: float = fraction()


class ProposalNMSConfig(Section):
    pre_train: int = between(1)
    pre_test: int = between(1)
    post_train: int = between(1)
    post_test: int = between(1)
    train_scope: str = one_of("image", "batch")
    threshold: float = fraction()


class RPNConfig(Section):
    num_convs: int = between(1)
    anchors: AnchorsConfig
    iou: IoUConfig
    sampling: SamplingConfig
    box_loss: str = one_of(*BOX_LOSSES)
    nms: ProposalNMSConfig


class ROIHeadConfig(Section):
    num_convs: int = between(0)
    conv_dim: int = between(1)
    num_fcs: int = between(0)
    fc_dim: int = between(1)
    norm: str = one_of("none", "batch", "group")
    class_agnostic: bool
    iou: float = fraction()
    sampling: SamplingConfig
    box_loss: str = one_of(*BOX_LOSSES)
    class_balance: float = fraction()
    score_threshold: float = fraction()
    nms_threshold: float = fraction()
    detections_per_image: int = between(1)


class PoolerConfig(Section):
    type: str = one_of("align", "pool")
    resolution: int = between(1)
    sampling_ratio: int = between(0, 16)
    aligned: bool


class MaskHeadConfig(Section):
    name: str = one_of("conv4", "none")
    num_convs: int = between(0)
    conv_dim: int = between(1)
    norm: str = one_of("none", "batch", "group")
    class_agnostic: bool
    threshold: float = fraction()
    pooler: PoolerConfig

    @property
    def enabled(self) -> bool:
        """Whether the model predicts masks, not boxes alone."""
        return self.name != "none"


class NumericsConfig(Section):
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


class SplitPathsConfig(Section):
    images: Any = paths()
    annotations: Any = paths()


class SplitConfig(Section):
    fractions: Optional[list[float]] = fraction()
    seed: int = between(0, MAX_SEED)


class ShapesConfig(Section):
    num_train: int = between(1)
    num_val: int = between(1)
    num_test: int = between(1)
    image_size: int = between(32)
    seed: int = between(0, MAX_SEED)


class TileConfig(Section):
    size: Optional[int] = between(32)
    overlap: float = between(0, 0.9)


class TrainTileConfig(TileConfig):
    min_visible: float = fraction()
    empty_share: float = fraction()


class DataConfig(Section):
    name: str = one_of("shapes", "coco", "roboflow", "custom", "auto", *LABEL_FORMATS)
    root: Optional[str]
    train: SplitPathsConfig
    val: SplitPathsConfig
    test: SplitPathsConfig
    split: SplitConfig
    shapes: ShapesConfig
    rename: Optional[dict[str, str]]
    merge: Optional[dict[str, list[str]]]
    classes: Optional[list[str]]
    exclude: Optional[str]
    channels: int = between(1, MAX_CHANNELS)
    bits: int = one_of(8, 16)
    picture_channels: Optional[list[int]] = between(1, MAX_CHANNELS)
    picture_contrast: str = one_of("percentile", "full")
    tile: TrainTileConfig
    min_size: int = between(16)
    max_size: int = between(16)
    keep_empty: bool
    on_bad_image: str = one_of("error", "skip")
    repeat_threshold: float = fraction()
    group_by_shape: bool

    @property
    def is_rgb(self) -> bool:
        """Whether the images are what pretrained weights were trained on: 8-bit R G B."""
        return self.channels == 3 and self.bits == 8


class AugmentationConfig(Section):
    horizontal_flip: float = fraction()
    vertical_flip: float = fraction()
    min_sizes: Optional[list[int]] = between(16)
    start_scale: float = positive(1)
    full_size_from: float = positive(1)
    scale_jitter: Optional[list[float]] = positive()
    min_crop: float = between(0.05, 1)
    rotation: float = between(0, 45)
    color_jitter: float = fraction()
    copy_paste: float = fraction()


class OptimizerConfig(Section):
    name: str = one_of(*OPTIMIZERS)
    lr: float = positive()
    weight_decay: float = between(0)
    norm_weight_decay: Optional[float] = between(0)
    momentum: float = fraction()
    betas: list[float] = fraction()
    scale_lr: bool
    reference_batch_size: int = between(1)
    backbone_lr_factor: float = between(0)


class ScheduleConfig(Section):
    name: str = one_of("multistep", "cosine", "constant")
    warmup_steps: int = between(0)
    warmup_factor: float = fraction()
    milestones: list[float] = fraction()
    gamma: float = fraction()
    final_factor: float = fraction()


class LossWeightsConfig(Section):
    objectness: float = between(0)
    rpn_box_reg: float = between(0)
    classifier: float = between(0)
    box_reg: float = between(0)
    mask: float = between(0)


class TrainerConfig(Section):
    device: str
    batch_size: int = between(1)
    num_workers: int = between(0)
    epochs: int = between(1)
    max_steps: Optional[int] = between(1)
    max_minutes: Optional[float] = positive()
    precision: str = one_of("auto", "fp32", "bf16", "fp16")
    channels_last: bool
    checkpoint_activations: bool
    loss_weights: LossWeightsConfig
    accumulate: int = between(1)
    clip_norm: float = between(0)
    ema: float = fraction()
    interval_unit: str = one_of("epoch", "step")
    evaluate_every: int = between(0)
    checkpoint_every: int = between(0)
    early_stopping: int = between(0)
    log_every: int = between(1)
    heads_only_steps: int = between(0)
    on_nonfinite: str = one_of("stop", "skip")
    max_skipped: int = between(1)
    deterministic: bool
    distributed_timeout: float = positive()
    sync_batchnorm: bool
    compile: bool
    capture: bool
    profile: bool


class EvaluationConfig(Section):
    backend: str = one_of(*EVALUATORS)
    max_detections: list[int] = between(1)
    iou_thresholds: list[float] = positive(1)
    size_limits: list[float] = between(1, MAX_SIDE)
    batch_size: int = between(1)
    loss: bool
    study: bool
    latency: bool
    bootstrap: int = between(0)
    pictures: int = between(0)
    picture_threshold: float = fraction()


class TrainConfig(Section):
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
    replay: Optional[str]
    output_dir: Optional[str]
    seed: int = between(0, MAX_SEED)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is scored: boxes and, with a mask head, masks; the last decides which model is best."""
        return ("bbox", "segm") if self.mask_head.enabled else ("bbox",)
