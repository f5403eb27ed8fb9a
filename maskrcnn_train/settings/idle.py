"""Keys that were given and have no effect beside the other settings."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from maskrcnn_train.settings.overrides import override_value

NO_KEY = object()  # a setting that a command does not have
SET = object()  # any value but null
# keys without effect, or the start of such keys; the setting, and its values, that make them so
IDLE: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("optimizer.momentum", "optimizer.name", ("adamw",)),
    ("optimizer.betas", "optimizer.name", ("sgd",)),
    ("optimizer.reference_batch_size", "optimizer.scale_lr", (False,)),
    ("schedule.milestones", "schedule.name", ("cosine", "constant")),
    ("schedule.gamma", "schedule.name", ("cosine", "constant")),
    ("schedule.gamma", "schedule.milestones", ([],)),
    ("schedule.final_factor", "schedule.name", ("multistep", "constant")),
    ("schedule.warmup_factor", "schedule.warmup_steps", (0,)),
    ("schedule.warmup_steps", "schedule.warmup_factor", (1.0,)),
    ("roi_head.conv_dim", "roi_head.num_convs", (0,)),
    ("roi_head.fc_dim", "roi_head.num_fcs", (0,)),
    ("data.split.seed", "data.split.fractions", (None,)),
    ("evaluation.picture_threshold", "evaluation.pictures", (0,)),
    ("draw.", "save.pictures", (False,)),
    ("save.tolerance", "save.formats", ([],)),
    ("save.copy_images", "save.formats", ([],)),
    ("fractions", "folds", (SET,)),
    ("duplicate_distance", "duplicates", (False,)),
    ("workers", "duplicates", (False,)),
    ("duplicate_distance", "decode", (False,)),
    ("workers", "decode", (False,)),
    ("augmentation.full_size_from", "augmentation.start_scale", (1.0,)),
    ("trainer.early_stopping", "trainer.evaluate_every", (0,)),
    ("trainer.max_skipped", "trainer.on_nonfinite", ("stop",)),
    ("numerics.rpn_smooth_l1_beta", "rpn.box_loss", ("giou", "diou", "ciou")),
    ("numerics.roi_smooth_l1_beta", "roi_head.box_loss", ("giou", "diou", "ciou")),
    ("trainer.heads_only_steps", "backbone.trainable_stages", (0,)),
    ("optimizer.backbone_lr_factor", "backbone.trainable_stages", (0,)),
    ("numerics.mask_targets", "mask_head.name", ("none",)),
    ("numerics.mask_paste", "mask_head.name", ("none",)),
    ("evaluation.bootstrap", "evaluation.study", (False,)),
    ("mask_head.", "mask_head.name", ("none",)),
    ("trainer.loss_weights.mask", "mask_head.name", ("none",)),
    ("data.tile.", "data.tile.size", (None,)),
    ("tile.", "tile.size", (None,)),
)


def idle_keys(config: Any, given: Sequence[str]) -> list[str]:
    """A warning for each key of `given` that has no effect beside the other settings of a command."""
    current = {
        cause: reduce(lambda part, name: getattr(part, name, NO_KEY), cause.split("."), config) for _, cause, _ in IDLE
    }
    return [
        f"{key} has no effect with {cause.removesuffix('.name')}={override_value(current[cause])}"
        for key in given
        for start, cause, values in IDLE
        if key != cause and (key == start or (start[-1] == "." and key.startswith(start)))
        if current[cause] in values or (SET in values and current[cause] not in (None, NO_KEY))
    ]
