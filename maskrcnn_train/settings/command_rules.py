"""Rules between the settings of each command other than training. This module never imports torch."""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from typing import Any

from maskrcnn_train.settings import command_schema as schema
from maskrcnn_train.settings.command_schema import training_of
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import overrides_of
from maskrcnn_train.settings.rules import check_data_rules, check_fractions, check_measures, check_train_rules, is_json
from maskrcnn_train.settings.schema import LATENCY

VALIDATION_LOSSES = "total|objectness|rpn_box_reg|classifier|box_reg|mask"
MODEL_ONLY = (
    *("data", "precision", "tta.flip", "tta.scales", "evaluation.loss", "evaluation.batch_size", "mask_head.threshold"),
    *(f"rpn.nms.{name}" for name in ("pre_test", "post_test", "threshold")),
    *(f"roi_head.{name}" for name in ("score_threshold", "nms_threshold", "detections_per_image")),
)  # settings of an evaluation that have no effect on a results file


def check_evaluate_rules(config: schema.EvaluateConfig) -> list[str]:
    """Rules between the settings of an evaluation."""
    given = [name for name in ("checkpoint", "predictions", "compare") if getattr(config, name) is not None]
    if len(given) != 1:
        raise UserError("give exactly one of checkpoint=RUN/checkpoints/best.pt, predictions=FILE.json, compare=[A,B]")
    files = [config.predictions] if config.predictions else list(filter(is_results, config.compare or []))
    if files and config.annotations is None:
        raise UserError(f"annotations is not set; {files[0]} needs the ground truth: annotations=FILE.json")
    if config.compare is not None:
        if len(config.compare) != 2:
            raise UserError(f"compare={config.compare} must name two checkpoints or results files: compare=[A,B]")
        if len(files) == 1:
            raise UserError("compare needs two checkpoints or two results files, not one of each")
        if config.evaluation.bootstrap == 0:
            raise UserError("compare resamples the images; set evaluation.bootstrap to at least 100")
    _check_split(config)
    if config.evaluation.loss and (config.tta.flip or config.tta.scales):
        raise UserError("evaluation.loss cannot be computed with tta; use one of them")
    if not files and config.annotations is not None:
        return ["annotations has no effect with a checkpoint; choose the data with data= and split="]
    return _idle(config, MODEL_ONLY, "on finished results") if files else []


def _idle(config: Any, keys: Iterable[str], cause: str) -> list[str]:
    """A warning for each dotted key that is set."""
    given = [key for key in keys if reduce(getattr, key.split("."), config) not in (None, False)]
    return [f"{key} has no effect {cause}" for key in given]


def _check_split(config: schema.OnSplitConfig) -> None:
    """Rules for the data that a checkpoint is scored on, and for its scores."""
    if config.data is not None:
        check_data_rules(config.data, [config.split])
    check_measures(config.evaluation)


def is_results(path: str) -> bool:
    """Whether a file to compare is a COCO results file, not a checkpoint."""
    return path.lower().endswith(".json")


def check_analyze_rules(config: schema.AnalyzeConfig) -> list[str]:
    """Rules between the settings of an analysis."""
    if not config.what:
        raise UserError("what is empty; name at least one of funnel, proposals, budgets")
    for key, numbers in (("counts", config.proposals.counts), ("upper", config.proposals.upper)):
        if not numbers or sorted(set(numbers)) != list(numbers):
            raise UserError(f"proposals.{key}={numbers} must be ascending numbers, at least one")
    if not config.proposals.lower or max(config.proposals.lower) > min(config.proposals.upper):
        raise UserError("every number of proposals.lower must be at most the smallest of proposals.upper")
    _check_split(config)
    return []


def check_predict_rules(config: schema.PredictConfig) -> list[str]:
    """Rules between the settings of a prediction."""
    if config.classes == []:
        raise UserError("classes is empty and would drop every detection; name at least one: classes=[door,window]")
    own, asked = config.roi_head.score_threshold, config.score_threshold
    if own is None or own <= asked:
        return []
    return [f"roi_head.score_threshold={own} is above score_threshold={asked}; detections between them are left out"]


def with_own_pixels(config: schema.CheckConfig) -> schema.CheckConfig:
    """Settings that have a mean and a std for each channel; any that do not fit are to be measured."""
    count, numerics = config.data.channels, config.numerics
    if len(numerics.pixel_mean) == len(numerics.pixel_std) == count:
        return config
    return replace(config, numerics=replace(numerics, pixel_mean=[0.5] * count, pixel_std=[0.25] * count))


def check_preflight_rules(config: schema.CheckConfig) -> list[str]:
    """Rules between the settings of a check: those of the training."""
    return check_train_rules(with_own_pixels(config)) + ["replay has no effect on a check"] * (
        config.replay is not None
    )


def check_tune_rules(config: schema.TuneConfig) -> list[str]:
    """Rules between the settings of a search and of its trainings."""
    warnings = check_train_rules(config)
    if config.replay is not None or config.resume is not None:
        raise UserError("replay and resume are for one training; continue a search with output_dir=ITS FOLDER")
    if config.storage is not None and "://" not in config.storage:
        raise UserError(f"storage={config.storage} is no URL; write e.g. storage=sqlite:///search.db, or leave it out")
    _check_metrics(config)
    if config.pruning != "none" and len(metric_names(config.metric)) > 1:
        warnings.append("pruning is off: no trial is stopped early by several metrics")
    elif config.pruning != "none" and config.trainer.evaluate_every == 0:
        warnings.append("pruning has no effect: with trainer.evaluate_every=0 a training is evaluated only at its end")
    return warnings


USED_WITH_CHECKPOINT = (
    "data.",
    "evaluation.",
    "trainer.device=",
    "trainer.precision=",
    "trainer.num_workers=",
    "seed=",
)


def check_labels_rules(config: schema.LabelsConfig) -> list[str]:
    """Rules between the settings of a search for doubtful labels and of its trainings."""
    if config.replay is not None or config.resume is not None:
        raise UserError("replay and resume are for one training; go on with output_dir=THE FOLDER of the command")
    if config.checkpoint is None:
        return check_train_rules(config, ["train"])
    check_data_rules(config.data, [config.split])
    check_measures(config.evaluation)
    changed = [
        text.split("=")[0]
        for text in overrides_of(training_of(config), default_config())
        if not text.startswith(USED_WITH_CHECKPOINT)
    ]
    changed += ["data.exclude"] * (config.data.exclude is not None)
    shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    return [f"{shown}: no effect with checkpoint, whose training set them"] if changed else []


def metric_names(metric: object) -> list[str]:
    """One name, several, or none as a list."""
    return [] if metric is None else [str(each) for each in metric] if isinstance(metric, list) else [str(metric)]


def _check_metrics(config: schema.TuneConfig) -> None:
    names = metric_names(config.metric)
    for name in names:
        if name != LATENCY:
            _check_metric(config, name)
    if len(set(names)) < len(names) or (config.metric is not None and names in ([], [LATENCY])):
        raise UserError(
            f"metric={config.metric} must name a score, or several different ones: metric=[segm/AP,latency]"
        )
    if len(names) > 1 and config.sampler == "cmaes":
        raise UserError("sampler=cmaes follows one metric only; with several use nsgaii, tpe or gp")


def _check_metric(config: schema.TuneConfig, metric: str) -> None:
    if not re.fullmatch(rf"(bbox|segm)/(AP(50|75|s|m|l|/.+)?|AR\d+)|val_loss/({VALIDATION_LOSSES})", metric):
        raise UserError(
            f"metric={metric} is not a score of a training; use e.g. segm/AP, bbox/AP50, segm/AR100, bbox/AP/CLASS, "
            "val_loss/total, or [segm/AP,latency]"
        )
    if (budget := re.fullmatch(r"\w+/AR(\d+)", metric)) and int(budget[1]) not in config.evaluation.max_detections:
        raise UserError(f"metric={metric} is not taken; evaluation.max_detections={config.evaluation.max_detections}")
    if metric.startswith("segm/") and not config.mask_head.enabled:
        raise UserError(f"metric={metric} needs masks, and mask_head=none has none; use metric=bbox/AP")
    if metric.startswith("val_loss/") and not config.evaluation.loss:
        raise UserError(f"metric={metric} needs evaluation.loss=true; add it")


def check_convert_rules(config: schema.ConvertConfig) -> list[str]:
    """Rules between the settings of a conversion."""
    check_data_rules(config.data, ["train"])
    return []


def check_split_rules(config: schema.SplitCommandConfig) -> list[str]:
    """Rules between the settings of a split."""
    if config.folds is None:
        check_fractions("fractions", config.fractions)
    if (config.annotations is None) == (config.data is None):
        raise UserError("give either annotations=FILE, or data=auto data.root=FOLDER")
    if config.data is not None:
        check_data_rules(config.data, ["train"])
    elif config.duplicates and config.images is None and is_json(config.annotations):
        raise UserError("images is not set; duplicates=true compares the images: images=FOLDER")
    if config.group_pattern is not None:
        try:
            re.compile(config.group_pattern)
        except re.error as error:
            raise UserError(f"group_pattern={config.group_pattern} is not a regular expression: {error}") from None
    return _idle(config, ("images",), f"with data={config.data.name}") if config.data is not None else []


def check_export_rules(config: schema.ExportConfig) -> list[str]:
    """Rules between the settings of an export."""
    _check_split(config)
    if config.format in ("onnx", "torchscript"):
        return []
    return _idle(config, ("paste_masks", "evaluate", "images", "data"), f"with format={config.format}")


def check_report_rules(config: schema.ReportConfig) -> list[str]:
    """Rules between the settings of a page."""
    if config.output is not None and not config.output.lower().endswith((".html", ".htm")):
        raise UserError(f"output={config.output} must be a file, e.g. output={config.output.rstrip('/')}/report.html")
    if config.data is not None:
        check_data_rules(config.data, ["val"])
    return []
