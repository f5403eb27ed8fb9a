"""The trials of a search: a folder that any number of workers share, and the Optuna study in its `trials.log`.

A worker holds a file lock on the trial that it trains. The system releases the locks of a dead worker, so another
worker can take the trial over, from its last checkpoint if there is one.
"""

import logging
import math
import random
import warnings
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from maskrcnn_train.evaluation.coco.evaluators import ABSENT
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import MAX_SEED
from maskrcnn_train.tuning.search import OF_THE_SEARCH, Search
from maskrcnn_train.tuning.space import Value, override_of

LOG_FILE = "trials.log"
SHARES = 20  # trainings are compared at every twentieth of their length, ...
EARLIEST = 6  # ... but not before this one: slow learners look bad at first
MAX_ATTEMPTS = 5  # at a trial whose workers are killed
LOCKS = "locks"

logger = logging.getLogger("maskrcnn_train")


def score_in(metrics: dict[str, float], metric: str) -> float:
    """The score to compare. Raises UserError if it is missing, not finite or absent."""
    score = metrics.get(metric)
    if score is None:
        raise UserError(f"the training has no {metric}; it has {', '.join(sorted(metrics))}")
    if not math.isfinite(score):
        raise UserError(f"{metric} is {score}")
    if score == ABSENT:
        raise UserError(f"{metric} is absent: the validation split has no such object; choose another metric")
    return score


class Pruned(BaseException):
    """The trial is worse than the others at the same share of its training. Not an error, so not an Exception."""


@dataclass
class Trial:
    """One training of a search. overrides: of the searched settings. folder: its run's, named by its number."""

    overrides: list[str]
    folder: Path
    _optuna: optuna.Trial
    _lock: FileLock
    _metric: str
    _reported: set[int] = field(default_factory=set)

    def report(self, progress: float, metrics: dict[str, float]) -> None:
        """Report an evaluation at a share of the training, 0..1. Raises Pruned if the trial should stop there."""
        share, score = int(progress * SHARES), score_in(metrics, self._metric)
        if share in self._reported or progress >= 1:
            return
        self._reported.add(share)
        self._optuna.report(score, share)
        if self._optuna.should_prune():
            raise Pruned(f"stopped after {progress:.0%}, below the median of the others there")


@dataclass
class TrialRecord:
    """A trial and its result. number: also the folder's name. state: complete, pruned, failed or running.

    score: the metric, None before the first evaluation. seconds: None while it runs. reason: why it failed.
    """

    number: int
    state: str
    score: float | None
    overrides: list[str]
    seconds: float | None
    reason: str


class Trials:
    """All trials of the search in one folder. lock: held by a worker while it changes shared files.

    Raises UserError if the folder holds another search.
    """

    def __init__(self, folder: Path, search: Search) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.search = folder, search
        self._locks = folder / LOCKS
        self._locks.mkdir(exist_ok=True)
        self.lock = FileLock(self._locks / "search")
        pruner = optuna.pruners.MedianPruner(search.config.unpruned, n_warmup_steps=EARLIEST)
        with self.lock:
            self.study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(folder / LOG_FILE))),
                study_name="search",
                direction="maximize" if search.maximizes else "minimize",
                pruner=pruner if search.config.pruning == "median" else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            self._refuse_another_search()
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(search.first_values())
        self._combinations = search.combinations()

    def _refuse_another_search(self) -> None:
        # all workers share these; not its folder, its length or a worker's machine
        free = (*OF_THE_SEARCH, "output_dir", "trainer.device", "trainer.num_workers")
        fixed = [text for text in self.search.fixed if text.split("=", 1)[0] not in free]
        ours = [f"metric={self.search.metric}", *map(str, self.search.space), *fixed]
        known = self.study.user_attrs.get("search")
        if known is None:
            self.study.set_user_attr("search", ours)
        elif set(known) != set(ours):
            differing = ", ".join(sorted(set(known) ^ set(ours)))
            raise UserError(
                f"output_dir={self.folder} holds another search; they differ in {differing}. "
                "Give the same settings, or another folder"
            )

    def begin(self) -> Trial | None:
        """The next trial, now locked by this worker; None when all trials have been given out."""
        with self.lock:
            self._requeue_lost_trials()
            while (trial := self._next()) is not None:
                overrides = [override_of(each.key, each.suggest(trial)) for each in self.search.space]
                if "attempt" in trial.user_attrs or not self._repeats(trial, overrides):
                    break
            else:
                return None
            trial.set_user_attr("overrides", overrides)
            lock = FileLock(self._locks / str(trial.number))
            lock.acquire(timeout=0)
        return Trial(overrides, self.folder / str(_number(trial)), trial, lock, self.search.metric)

    def _next(self) -> optuna.Trial | None:
        known = self.study.get_trials(deepcopy=False)
        count = sum(not {"attempt", "repeats"} & trial.user_attrs.keys() for trial in known)
        if all(trial.state != TrialState.WAITING for trial in known):
            if count >= self.search.config.trials:
                return None
            if self._untried() == []:
                logger.info("every combination of values has been tried")
                return None
        self.study.sampler = self._sampler(len(known))
        return self.study.ask()

    def _untried(self) -> list[dict[str, Value]] | None:
        """The combinations of a small space that no trial has; None for a large space."""
        if not self._combinations:
            return None
        tried = {tuple(trial.user_attrs.get("overrides", ())) for trial in self.study.get_trials(deepcopy=False)}
        return [each for each in self._combinations if tuple(starmap(override_of, each.items())) not in tried]

    def _repeats(self, trial: optuna.Trial, overrides: list[str]) -> bool:
        """Whether another trial has these values; if so, end this one and queue an untried combination instead."""
        tried = (other.user_attrs.get("overrides") for other in self.study.get_trials(deepcopy=False))
        if overrides not in tried:
            return False
        trial.set_user_attr("repeats", True)
        self.study.tell(trial, state=TrialState.FAIL)
        if untried := self._untried():
            self.study.enqueue_trial(random.Random(trial.number).choice(untried))
        return True

    def end(self, trial: Trial, *, score: float | None = None, reason: str = "") -> None:
        """The trial is complete with a score, failed with a reason, pruned with neither."""
        state = TrialState.COMPLETE if score is not None else TrialState.FAIL if reason else TrialState.PRUNED
        if reason:
            trial._optuna.set_user_attr("reason", reason)
        with self.lock:  # else another worker could see it running but not locked
            self.study.tell(trial._optuna, score, state=state)
            _release(trial._lock)

    def hand_back(self, trial: Trial) -> None:
        """Queue a trial that was stopped by a signal; the next worker continues it."""
        with self.lock:
            self._requeue(trial._optuna, int(trial._optuna.user_attrs.get("attempt", 1)))
            _release(trial._lock)

    def _sampler(self, draws: int) -> optuna.samplers.BaseSampler:
        """A sampler whose draws depend on the seed and on the trials before it, not on the worker."""
        seed = (self.search.config.seed * 100_003 + draws) % (MAX_SEED + 1)
        if self.search.config.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # running trials count as bad, so that workers do not all try the same values
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def _requeue_lost_trials(self) -> None:
        """End the trials of dead workers as failed, and queue them again."""
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lock = FileLock(self._locks / str(frozen.number))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            trial = optuna.Trial(self.study, frozen._trial_id)
            attempt = int(frozen.user_attrs.get("attempt", 1)) + 1
            if attempt > MAX_ATTEMPTS:
                trial.set_user_attr("reason", f"its worker was killed {MAX_ATTEMPTS} times")
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                self._requeue(trial, attempt)
            _release(lock)

    def _requeue(self, trial: optuna.Trial, attempt: int) -> None:
        """End a trial and queue another with its values, in the same folder if that has a checkpoint."""
        number = _number(trial)
        self.study.tell(trial, state=TrialState.FAIL)
        if "overrides" not in trial.user_attrs:
            return  # its worker died before it had values
        attributes: dict[str, Any] = {"attempt": attempt}
        if (self.folder / str(number) / "checkpoints").is_dir():
            attributes["number"] = number
        self.study.enqueue_trial(trial.params, user_attrs=attributes)

    def records(self) -> list[TrialRecord]:
        """All trials, best first, those without a score last. Of a trial queued again, the last attempt."""
        found = {
            _number(trial): _record(trial)
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state != TrialState.WAITING
            and (trial.state != TrialState.FAIL or "reason" in trial.user_attrs)  # else queued again, or a repeat
        }
        sign = -1 if self.search.maximizes else 1
        complete = [each for each in found.values() if each.state == "complete"]
        others = [each for each in found.values() if each.state != "complete"]
        return [*sorted(complete, key=lambda each: sign * (each.score or 0)), *others]

    def importances(self) -> dict[str, float]:
        """Each setting's share in the difference between good and bad trials; empty with too few trials.

        By PED-ANOVA (Watanabe et al. 2023), which compares the best trials with the rest.
        """
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < 2 * len(self.search.space) + 4 or len({trial.value for trial in complete}) < 2:
            return {}
        return optuna.importance.get_param_importances(
            self.study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )


def _release(lock: FileLock) -> None:
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def _number(trial: FrozenTrial | optuna.Trial) -> int:
    """The number of its folder: a trial queued again continues in the folder of its first attempt."""
    return int(trial.user_attrs.get("number", trial.number))


def _record(trial: FrozenTrial) -> TrialRecord:
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    last = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
    return TrialRecord(
        number=_number(trial),
        state=names.get(trial.state, "running"),
        score=trial.value if trial.state == TrialState.COMPLETE else last,
        overrides=list(trial.user_attrs.get("overrides", [])),
        seconds=None if trial.duration is None else trial.duration.total_seconds(),
        reason=str(trial.user_attrs.get("reason", "")),
    )
