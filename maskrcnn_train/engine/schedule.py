"""The learning rate over a training, as a pure function: nothing to save, nothing to resume."""

import math

from maskrcnn_train.settings.schema import ScheduleConfig

LONGEST_WARMUP = 0.1  # share of the training


def lr_factor(section: ScheduleConfig, *, step: int, progress: float) -> float:
    """What the base learning rate is multiplied by.

    step: optimizer steps done. progress: share of the training done, 0..1, by steps or by time, so that a
    schedule fits a budget in minutes as well.
    """
    warmup, decay = 1.0, 1.0
    if section.warmup_steps > 0:
        done = min(1.0, max((step + 1) / section.warmup_steps, progress / LONGEST_WARMUP))
        warmup = section.warmup_factor + (1 - section.warmup_factor) * done
    if section.name == "multistep":
        decay = section.gamma ** sum(progress >= milestone for milestone in section.milestones)
    elif section.name == "cosine":
        cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
        decay = section.final_factor + (1 - section.final_factor) * cosine
    else:
        assert section.name == "constant"
    return warmup * decay
