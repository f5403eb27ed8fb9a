"""The optimizers by name, with what the checks before a training know of each."""

from typing import NamedTuple


class Facts(NamedTuple):
    """highest_lr: above it a learning rate is doubtful; of sgd for 16 images a step. moments: numbers that the
    optimizer keeps for each weight."""

    highest_lr: float
    moments: int


OPTIMIZERS = {"sgd": Facts(0.04, 1), "adamw": Facts(1e-3, 2), "muon": Facts(4e-3, 1)}
