"""What a program needs to use the model: classes, thresholds, how images are prepared."""

from typing import Any

from maskrcnn_train import __version__
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.classes import ClassMap


def output_names(config: TrainConfig) -> list[str]:
    """Outputs of an exported graph, in their order."""
    return ["boxes", "labels", "scores", *(["masks"] if config.mask_head.enabled else [])]


def describe_model(config: TrainConfig, classes: ClassMap) -> dict[str, Any]:
    """Plain data, the same beside every format. Labels count from 1; 0 is the background."""
    mean, std = config.numerics.pixel_mean, config.numerics.pixel_std
    data = config.data
    return {
        "program": f"maskrcnn_train {__version__}",
        "categories": [{"id": each, "name": name} for each, name in zip(classes.ids, classes.names, strict=True)],
        "labels": {str(label): each for label, each in enumerate(classes.ids, start=1)},
        "class_names": ["__background__", *classes.names],
        "preprocessing": {
            "colors": "R G B, upright by EXIF" if data.is_rgb else f"{data.channels} channels, as in the files",
            "dtype": f"uint{data.bits}",
            "min_size": data.min_size,
            "max_size": data.max_size,
            "resize": "shorter side to min_size, longer at most max_size; Pillow bilinear, columns first",
            "mean": mean,
            "std": std,
            "scale": f"pixels / {2**data.bits - 1}, minus mean, divided by std",
            "pad_to_multiple_of": 32,
        },
        "tiles": {"size": config.data.tile.size, "overlap": config.data.tile.overlap},
        "thresholds": {
            "score": config.roi_head.score_threshold,
            "nms": config.roi_head.nms_threshold,
            "mask": config.mask_head.threshold,
            "rpn_nms": config.rpn.nms.threshold,
        },
        "budgets": {
            "rpn_pre_nms": config.rpn.nms.pre_test,
            "rpn_post_nms": config.rpn.nms.post_test,
            "detections_per_image": config.roi_head.detections_per_image,
        },
        "mask_paste": config.numerics.mask_paste,
        "outputs": output_names(config),
    }
