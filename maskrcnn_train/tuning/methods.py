"""How a search chooses the values of the next trial, and which trials it stops: samplers and pruners of Optuna."""

from collections.abc import Sequence
from importlib.util import find_spec

from optuna import pruners, samplers

from maskrcnn_train.settings.command_schema import TuneConfig
from maskrcnn_train.settings.errors import UserError

SHARES = 20  # trainings are compared at every twentieth of their length, ...
EARLIEST = 6  # ... but not before this one: slow learners look bad at first
POPULATION = 10  # trials of a generation; as many random ones come first with TPE and GP
NEEDS = {"cmaes": ("cmaes",), "gp": ("scipy",)}


def check_sampler(name: str) -> None:
    """Raises UserError where a package that the sampler needs is missing."""
    for package in NEEDS.get(name, ()):
        if find_spec(package) is None:
            raise UserError(f"sampler={name} needs {package}; install it with: pip install 'maskrcnn-train[tune]'")


def build_sampler(name: str, seed: int) -> samplers.BaseSampler:
    """tpe, random, cmaes, nsgaii or gp; a grid's values are chosen by the search, so `grid` draws nothing."""
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if name == "nsgaii":
        return samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=POPULATION, warn_independent_sampling=False)
    if name == "tpe":  # running trials count as bad, so that workers do not all try the same values
        return samplers.TPESampler(seed=seed, n_startup_trials=POPULATION, constant_liar=True)
    return samplers.RandomSampler(seed=seed)


def build_pruner(config: TuneConfig, metrics: Sequence[str]) -> pruners.BasePruner:
    """Decides at twentieths of a training. Nothing is pruned by several metrics: which of them would count?"""
    if len(metrics) > 1 or config.pruning == "none":
        return pruners.NopPruner()
    if config.pruning == "hyperband":
        return pruners.HyperbandPruner(min_resource=EARLIEST, max_resource=SHARES)
    return pruners.MedianPruner(config.unpruned, n_warmup_steps=EARLIEST)
