"""The trials of a search: an Optuna study and a folder of runs, which any number of workers share."""

from __future__ import annotations

import logging
import math
import random
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeatThread, get_heartbeat_thread
from optuna.study import StudyDirection
from optuna.trial import TrialState

from maskrcnn_train.evaluation.coco.evaluators import ABSENT
from maskrcnn_train.files import write_text
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import MAX_SEED
from maskrcnn_train.tuning.methods import SHARES, build_pruner, build_sampler
from maskrcnn_train.tuning.records import TrialRecord, folder_number, read_records
from maskrcnn_train.tuning.search import OF_THE_SEARCH, Search, is_score
from maskrcnn_train.tuning.space import Value, override_of
from maskrcnn_train.tuning.storages import LOCKS, open_storage, patience

BEGUN = "begun"  # an attribute of a trial: its own number; one that is queued again inherits another
STUDY_FILE = "study.txt"  # the search's name in its storage
OWN_DRAWS, ALL_DRAWS = 3, 100  # for one trial: by the sampler, and then at random, until its values are new

logger = logging.getLogger("maskrcnn_train")


def score_in(metrics: Mapping[str, float], metric: str) -> float:
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
    """The trial should not go on. Not an error, so not an Exception."""


@dataclass
class Trial:
    """One training of a search. overrides: of the searched settings. folder: its run's, named by its number.

    alive: a context in which other workers know that this one lives.
    """

    overrides: list[str]
    folder: Path
    alive: BaseHeartbeatThread
    _optuna: optuna.Trial
    _metrics: Sequence[str]
    _reported: set[int]

    def report(self, progress: float, metrics: Mapping[str, float]) -> None:
        """Report an evaluation at a share of the training, 0..1. Raises Pruned if the trial should stop there."""
        share = int(progress * SHARES)
        if share in self._reported or progress >= 1 or len(self._metrics) > 1:
            return
        self._reported.add(share)
        try:
            self._optuna.report(score_in(metrics, self._metrics[0]), share)
        except UpdateFinishedTrialError:
            raise Pruned("this worker gave no sign for so long that another took the trial over") from None
        if self._optuna.should_prune():
            raise Pruned(f"stopped after {progress:.0%}, worse than the others there")


class Trials:
    """All trials of the search in one folder. lock: held by a worker while it begins a trial or writes shared files.

    Raises UserError if the folder holds another search, or one with another storage.
    """

    def __init__(self, folder: Path, search: Search) -> None:
        self.folder, self.search = folder, search
        (folder / LOCKS).mkdir(exist_ok=True)
        self.lock = FileLock(folder / LOCKS / "search")
        self.storage = open_storage(search.config.storage, folder)
        try:
            with self.lock:
                pass
        except OSError as error:  # such as some network file systems
            raise UserError(
                f"{folder} is on a file system without locks ({error.strerror}), by which workers share a search; "
                "give an output_dir on another"
            ) from error
        with self.lock:
            self.study = self._open_study()
            self._refuse_another_search()
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(search.first_values())
        self._combinations = search.combinations()

    def _open_study(self) -> optuna.Study:
        named, pruner = self.folder / STUDY_FILE, build_pruner(self.search.config, self.search.metrics)
        if named.is_file():
            try:
                return optuna.load_study(
                    study_name=named.read_text(encoding="utf-8"), storage=self.storage, pruner=pruner
                )
            except KeyError:
                raise UserError(
                    f"the search in {self.folder} has another storage; give the one it began with"
                ) from None
        shared = self.search.config.storage is not None
        name = f"{self.folder.name}-{uuid.uuid4().hex[:8]}" if shared else "search"
        directions = [
            StudyDirection.MAXIMIZE if is_score(metric) else StudyDirection.MINIMIZE for metric in self.search.metrics
        ]
        study = optuna.create_study(
            storage=self.storage, study_name=name, directions=directions, pruner=pruner, load_if_exists=not shared
        )
        write_text(named, name)
        return study

    def _refuse_another_search(self) -> None:
        # all workers share these; not its folder, its length or a worker's machine
        free = (*OF_THE_SEARCH, "output_dir", "trainer.device", "trainer.num_workers")
        fixed = [text for text in self.search.fixed if text.split("=", 1)[0] not in free]
        ours = [f"metric={','.join(self.search.metrics)}", *map(str, self.search.space), *fixed]
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
        """The next trial, now this worker's; None when all have been given out and no worker at them is dead."""
        until = time.monotonic() + patience(self.storage)
        while (trial := self._begin()) is None and time.monotonic() < until:
            if not self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                break
            time.sleep(1)
        return trial

    def _begin(self) -> Trial | None:
        with self.lock:
            fail_stale_trials(self.study)  # and queues them again
            for lost in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if lost.user_attrs.get(BEGUN) != lost.number:  # its worker was killed in here, without a heartbeat
                    self._show_alive(lost._trial_id, lost.number)  # for the last time
            for draw in range(ALL_DRAWS):
                # one that has converged draws the same values for ever
                trial = self._next(self.search.config.sampler if draw < OWN_DRAWS else "random")
                if trial is None:
                    return None
                overrides = [override_of(each.key, each.suggest(trial)) for each in self.search.space]
                if "overrides" in trial.user_attrs or not self._repeats(trial, overrides):
                    break
            else:
                logger.info("%d draws gave no new values, of six digits each: the search ends here", ALL_DRAWS)
                return None
            number = folder_number(trial)
            for name, value in {"overrides": overrides, "number": number}.items():
                trial.set_user_attr(name, value)
            self._show_alive(trial._trial_id, trial.number)
        alive = get_heartbeat_thread(trial._trial_id, self.storage)
        reported = set(self.storage.get_trial(trial._trial_id).intermediate_values)
        return Trial(overrides, self.folder / str(number), alive, trial, self.search.metrics, reported)

    def _show_alive(self, trial_id: int, number: int) -> None:
        """A first heartbeat, without which a database takes no worker for dead; noted, for there must be one only."""
        self.storage.record_heartbeat(trial_id)
        self.storage.set_trial_user_attr(trial_id, BEGUN, number)

    def _next(self, sampler: str) -> optuna.Trial | None:
        """A trial to be given values by the sampler, or one that waits with its own; None when all are given out."""
        known, config = self.study.get_trials(deepcopy=False), self.search.config
        if all(trial.state != TrialState.WAITING for trial in known):
            # one that failed before it had a number was a repetition
            given = {
                folder_number(each) for each in known if each.state != TrialState.FAIL or "number" in each.user_attrs
            }
            if len(given) >= config.trials:
                return None
            untried = self._untried()
            if untried == []:
                logger.info("every combination of values has been tried")
                return None
            if untried and sampler == "grid":
                self.study.enqueue_trial(untried[0])
        # the draws depend on the seed and on the trials before, not on the worker
        self.study.sampler = build_sampler(sampler, (config.seed * 100_003 + len(known)) % (MAX_SEED + 1))
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
        self.study.tell(trial, state=TrialState.FAIL)
        if untried := self._untried():
            self.study.enqueue_trial(random.Random(trial.number).choice(untried))
        return True

    def end(self, trial: Trial, *, scores: Sequence[float] | None = None, reason: str = "") -> None:
        """The trial is complete with its scores, failed with a reason, pruned with neither."""
        state = TrialState.COMPLETE if scores is not None else TrialState.FAIL if reason else TrialState.PRUNED
        if reason:
            trial._optuna.set_user_attr("reason", reason)
        self.study.tell(trial._optuna, scores, state=state, skip_if_finished=True)

    def hand_back(self, trial: Trial) -> None:
        """Queue a trial that was stopped by a signal; the next worker continues it."""
        with self.lock:
            ended = self.study.tell(trial._optuna, state=TrialState.FAIL)
            kept = ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values")
            given = {name: getattr(ended, name) for name in kept}
            self.study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, **given))

    def records(self) -> list[TrialRecord]:
        return read_records(self.study, self.search.metrics)

    def free_checkpoints(self) -> None:
        """Remove the checkpoints of trials that are over and not the best. The first trial's stay, to compare with."""
        records = self.records()
        kept = {0, *(each.number for each in records[:1]), *(each.number for each in records if each.front)}
        for each in records:
            if each.state != "running" and each.number not in kept:
                shutil.rmtree(self.folder / str(each.number) / "checkpoints", ignore_errors=True)
