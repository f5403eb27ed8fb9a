"""What became of the trials of a search, read from its study."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from maskrcnn_train.tuning.search import is_score
from maskrcnn_train.tuning.storages import MAX_ATTEMPTS

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass
class TrialRecord:
    """A trial and its result. number: also the folder's name. state: complete, pruned, failed or running.

    score: the first metric, None before the first evaluation. seconds: None while it runs. reason: why it failed.
    scores: all metrics of a complete trial. front: of several metrics, no other trial beats it in all.
    """

    number: int
    state: str
    score: float | None
    overrides: list[str]
    seconds: float | None
    reason: str
    scores: dict[str, float] = field(default_factory=dict)
    front: bool = False


def folder_number(trial: FrozenTrial | optuna.Trial) -> int:
    """The number of its run's folder: a trial queued again continues in the folder of its first attempt."""
    return int(trial.user_attrs.get("number", trial.number))


def read_records(study: optuna.Study, metrics: Sequence[str]) -> list[TrialRecord]:
    """All trials, best first by the first metric, those without a score last. Of one queued again, the last attempt."""
    last = {folder_number(each): each for each in study.get_trials(deepcopy=False) if "number" in each.user_attrs}
    front = {each.number for each in study.best_trials} if len(metrics) > 1 else set()
    found = [_record(each, metrics, front) for each in last.values() if each.state != TrialState.WAITING]
    sign = -1 if is_score(metrics[0]) else 1
    complete = [each for each in found if each.state == "complete"]
    others = [each for each in found if each.state != "complete"]
    return [*sorted(complete, key=lambda each: sign * (each.score or 0)), *others]


def _record(trial: FrozenTrial, metrics: Sequence[str], front: set[int]) -> TrialRecord:
    state, reason = STATES.get(trial.state, "running"), str(trial.user_attrs.get("reason", ""))
    scores = dict(zip(metrics, trial.values, strict=True)) if state == "complete" else {}
    last = trial.intermediate_values[trial.last_step] if trial.last_step is not None else None
    if state == "failed" and not reason:
        reason = f"its worker was killed {MAX_ATTEMPTS} times"
    return TrialRecord(
        number=folder_number(trial),
        state=state,
        score=scores.get(metrics[0], last),
        overrides=list(trial.user_attrs["overrides"]),
        seconds=None if trial.duration is None else trial.duration.total_seconds(),
        reason=reason,
        scores=scores,
        front=trial.number in front,
    )


def importances(study: optuna.Study, num_settings: int) -> dict[str, float]:
    """Each setting's share in the difference between good and bad trials; empty with too few trials.

    By the first metric and PED-ANOVA (Watanabe et al. 2023), which compares the best trials with the rest.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 2 * num_settings + 4 or len({trial.values[0] for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    target = (lambda trial: float(trial.values[0])) if len(study.directions) > 1 else None
    return optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
