"""The schema of the other commands' settings. As in `schema.py`, types stand here and values in `conf/`."""

from dataclasses import field, fields
from typing import Any, Optional

from maskrcnn_train.settings.fields import Section, between, fraction, one_of, paths, positive
from maskrcnn_train.settings.schema import (
    EVALUATORS,
    LABEL_FORMATS,
    MAX_SEED,
    MAX_SIDE,
    DataConfig,
    TileConfig,
    TrainConfig,
    TrainTileConfig,
)

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# both of the data section
TRAINING_ONLY = (
    *("min_size", "max_size", "keep_empty", "repeat_threshold", "group_by_shape", "exclude"),
    *(f"tile.{each.name}" for each in fields(TrainTileConfig)),
)
PIXELS = ("channels", "bits", "picture_channels", "picture_contrast")
CHOICE = ("rename", "merge", "classes")  # `split` has its own


class TestNMSConfig(Section):
    pre_test: Optional[int] = between(1)
    post_test: Optional[int] = between(1)
    threshold: Optional[float] = fraction()


class TestRPNConfig(Section):
    nms: TestNMSConfig


class TestROIHeadConfig(Section):
    score_threshold: Optional[float] = fraction()
    nms_threshold: Optional[float] = fraction()
    detections_per_image: Optional[int] = between(1)


class TestMaskHeadConfig(Section):
    threshold: Optional[float] = fraction()


class TestSettings(Section):
    """Settings that a command may change after the training. None: as in the checkpoint."""

    rpn: TestRPNConfig
    roi_head: TestROIHeadConfig
    mask_head: TestMaskHeadConfig


class MeasuresConfig(Section):
    """How mAP is computed. None: as in the training; for a results file as COCO does."""

    backend: Optional[str] = one_of(*EVALUATORS)
    max_detections: Optional[list[int]] = between(1)
    iou_thresholds: Optional[list[float]] = positive(1)
    size_limits: Optional[list[float]] = between(1, MAX_SIDE)


class OnSplitConfig(TestSettings):
    """A checkpoint evaluated on one split. data: None for the data of its training."""

    split: str = one_of("train", "val", "test")
    data: Optional[DataConfig] = field(metadata={"idle": (*TRAINING_ONLY, *PIXELS)})
    evaluation: MeasuresConfig
    output_dir: Optional[str]


class TTAConfig(Section):
    flip: bool
    scales: Optional[list[int]] = between(16)


class BatchedMeasuresConfig(MeasuresConfig):
    batch_size: Optional[int] = between(1)


class StudyConfig(BatchedMeasuresConfig):
    loss: bool
    study: bool
    bootstrap: int = between(0)


class EvaluateConfig(OnSplitConfig):
    """Everything that `python -m maskrcnn_train.evaluate` reads. None: as in the checkpoint."""

    evaluation: StudyConfig

    checkpoint: Optional[str]
    predictions: Optional[str]
    annotations: Optional[str]
    compare: Optional[list[str]]
    tta: TTAConfig
    device: str
    precision: Optional[str] = one_of(*PRECISIONS)
    num_workers: int = between(0)
    seed: int = between(0, MAX_SEED)


class FunnelConfig(Section):
    iou: float = fraction()


class ProposalReportConfig(Section):
    counts: list[int] = between(1)
    upper: list[float] = fraction()
    lower: list[float] = fraction()


class BudgetsConfig(Section):
    pre_test: list[int] = between(1)
    post_test: list[int] = between(1)
    rpn_threshold: list[float] = fraction()
    score_threshold: list[float] = fraction()
    nms_threshold: list[float] = fraction()
    detections_per_image: list[int] = between(1)
    mask_threshold: list[float] = fraction()
    most: int = between(1)
    tolerance: float = fraction()
    timed_images: int = between(0)


class AnalyzeConfig(OnSplitConfig):
    """Everything that `python -m maskrcnn_train.analyze` reads. None: as in the checkpoint."""

    evaluation: BatchedMeasuresConfig
    checkpoint: str
    what: list[str] = one_of("funnel", "proposals", "budgets")
    max_images: Optional[int] = between(2)
    funnel: FunnelConfig
    proposals: ProposalReportConfig
    budgets: BudgetsConfig
    device: str
    precision: Optional[str] = one_of(*PRECISIONS)
    num_workers: int = between(0)
    seed: int = between(0, MAX_SEED)


class DrawConfig(Section):
    mask_opacity: float = fraction()
    box_thickness: Optional[int] = between(0)
    text_size: Optional[int] = between(6)
    color_by: str = one_of("auto", "class", "instance")


class SaveConfig(Section):
    pictures: bool
    masks: bool
    csv: bool
    formats: list[str] = one_of("coco", *LABEL_FORMATS)
    tolerance: float = between(0)
    copy_images: bool


class PredictConfig(TestSettings):
    """Everything that `python -m maskrcnn_train.predict` reads. None: as in the checkpoint."""

    checkpoint: str
    images: str
    score_threshold: float = fraction()
    classes: Optional[list[str]]
    tile: TileConfig
    draw: DrawConfig
    save: SaveConfig
    batch_size: int = between(1)
    device: str
    precision: Optional[str] = one_of(*PRECISIONS)
    output_dir: Optional[str]


class CheckConfig(TrainConfig):
    """Everything that `python -m maskrcnn_train.check` reads: the settings of the training to judge, and its own."""

    decode: bool
    duplicate_distance: int = between(0, 64)
    workers: Optional[int] = between(1)
    timing: bool
    view: bool
    view_count: int = between(1)


class TuneConfig(TrainConfig):
    """Everything that `python -m maskrcnn_train.tune` reads: the settings of each training, and those of the search."""

    space: list[str]
    trials: int = between(1)
    minutes: Optional[float] = positive()
    workers: int = between(1)
    storage: Optional[str]
    metric: Any  # a text or a list of texts
    sampler: str = one_of("tpe", "random", "grid", "cmaes", "nsgaii", "gp")
    pruning: str = one_of("median", "hyperband", "none")
    unpruned: int = between(0)
    keep: str = one_of("best", "all")


class LabelsConfig(TrainConfig):
    """Everything that `python -m maskrcnn_train.labels` reads: the settings of each training, and its own."""

    folds: int = between(2)
    checkpoint: Optional[str]
    split: str = one_of("train", "val", "test")
    suspicion: float = fraction()
    pictures: int = between(0)


def training_of(config: TrainConfig) -> TrainConfig:
    """The settings of a training alone, out of those of a command that adds its own."""
    return TrainConfig(**{each.name: getattr(config, each.name) for each in fields(TrainConfig)})


class SplitCommandConfig(Section):
    """Everything that `python -m maskrcnn_train.split` reads."""

    data: Optional[DataConfig] = field(metadata={"idle": (*TRAINING_ONLY, "on_bad_image", *CHOICE)})
    annotations: Any = paths()
    images: Any = paths()
    format: str = one_of("coco", *LABEL_FORMATS)
    tolerance: float = between(0)
    rename: Optional[dict[str, str]]
    merge: Optional[dict[str, list[str]]]
    classes: Optional[list[str]]
    fractions: list[float] = fraction()
    folds: Optional[int] = between(2)
    group_by: Optional[str]
    group_pattern: Optional[str]
    duplicates: bool
    duplicate_distance: int = between(0, 64)
    workers: Optional[int] = between(1)
    output_dir: Optional[str]
    seed: int = between(0, MAX_SEED)


class ConvertConfig(Section):
    """Everything that `python -m maskrcnn_train.convert` reads."""

    data: DataConfig = field(metadata={"idle": (*TRAINING_ONLY, *PIXELS)})
    format: str = one_of("coco", *LABEL_FORMATS)
    tolerance: float = between(0)
    copy_images: bool
    output_dir: Optional[str]


class ToleranceConfig(Section):
    boxes: float = between(0)
    scores: float = between(0)
    mask_iou: float = fraction()


class ExportConfig(OnSplitConfig):
    """Everything that `python -m maskrcnn_train.export` reads. None: as in the checkpoint."""

    checkpoint: str
    format: str = one_of("onnx", "torchscript", "safetensors", "coco_metadata")
    paste_masks: bool
    opset: int = between(16, 20)
    images: Optional[str]
    num_images: int = between(0)
    tolerance: ToleranceConfig
    evaluate: bool


class GalleryConfig(Section):
    worst: int = between(0)
    best: int = between(0)
    size: int = between(64, 4000)


class ReportConfig(Section):
    """Everything that `python -m maskrcnn_train.report` reads."""

    run: str
    analysis: Optional[str]
    output: Optional[str]
    gallery: GalleryConfig
    data: Optional[DataConfig] = field(metadata={"idle": (*TRAINING_ONLY, *PIXELS)})
