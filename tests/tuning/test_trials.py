"""The trials of a search, shared by workers: none of them trains here."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs the extra tune")

from optuna.samplers import BaseSampler, PartialFixedSampler
from searches import SPACE, search

from maskrcnn_train.tuning import trials as module
from maskrcnn_train.tuning.methods import EARLIEST, SHARES, build_sampler
from maskrcnn_train.tuning.records import importances
from maskrcnn_train.tuning.storages import MAX_ATTEMPTS, FileLocks
from maskrcnn_train.tuning.trials import Pruned, Trials, score_in


def kill(worker: Trials) -> None:
    """The system drops the lock of its trial."""
    assert isinstance(worker.storage, FileLocks)
    assert worker.storage._held is not None
    worker.storage._held.release()


def test_the_first_trial_is_what_one_has_without_a_search(tmp_path: Path) -> None:
    first = Trials(tmp_path, search()).begin()
    assert first is not None
    assert first.overrides == ["optimizer.lr=0.001", "roi_head.num_convs=2", "roi_head.num_fcs=1"]
    assert first.folder == tmp_path / "0"


def test_there_are_as_many_trials_as_asked_for_whoever_begins_them(tmp_path: Path) -> None:
    workers = [Trials(tmp_path, search("trials=3")) for _ in range(5)]
    begun = [worker.begin() for worker in workers]
    assert [trial is None for trial in begun] == [False, False, False, True, True]
    assert len({tuple(trial.overrides) for trial in begun if trial}) == 3
    longer = Trials(tmp_path, search("trials=4"))
    one_more = longer.begin()
    assert one_more is not None
    assert longer.begin() is None


def test_a_search_repeats_itself_from_its_seed(tmp_path: Path) -> None:
    def draws(name: str, *overrides: str) -> list[list[str]]:
        (tmp_path / name).mkdir()
        trials, found = Trials(tmp_path / name, search("trials=12", *overrides)), []
        while trial := trials.begin():
            found.append(trial.overrides)
            trials.end(trial, scores=[float(trial.overrides[0].split("=")[1])])
        return found

    first = draws("a")
    assert draws("b") == first
    assert draws("c", "seed=1")[:3] != first[:3]
    at_random = draws("d", "sampler=random")
    assert at_random[:10] == first[:10]  # TPE begins with ten random ones, ...
    assert at_random != first  # ... then learns


def test_tpe_goes_where_the_score_is_high(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search("trials=30", space=("trainer.clip_norm=interval(0,10)",)))
    values = []
    while trial := trials.begin():
        values.append(float(trial.overrides[0].split("=")[1]))
        trials.end(trial, scores=[-abs(values[-1] - 8)])
    later = sorted(abs(value - 8) for value in values[15:])
    assert later[len(later) // 2] < 2  # random ones would be 3 away


def test_a_lost_trial_is_handed_on_with_its_values_and_its_folder(tmp_path: Path) -> None:
    workers = [Trials(tmp_path, search("trials=2")) for _ in range(2)]
    lost, held = (worker.begin() for worker in workers)
    assert lost is not None
    assert held is not None
    kill(workers[0])
    again = Trials(tmp_path, search("trials=2"))
    trial = again.begin()
    assert trial is not None
    assert (trial.overrides, trial.folder) == (lost.overrides, lost.folder)
    assert Trials(tmp_path, search("trials=2")).begin() is None  # the other one is held by a living worker
    again.end(trial, scores=[0.5])
    assert [(each.number, each.state) for each in again.records()] == [(0, "complete"), (1, "running")]


def test_a_trial_whose_worker_is_always_killed_is_given_up_and_says_so(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search("trials=1"))
    for _ in range(MAX_ATTEMPTS):
        assert trials.begin() is not None
        kill(trials)
    assert trials.begin() is None
    (record,) = trials.records()
    assert (record.number, record.state) == (0, "failed")
    assert "killed" in record.reason


def test_a_trial_that_is_stopped_in_order_goes_on_however_often(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search("trials=1"))
    for _ in range(MAX_ATTEMPTS + 2):
        trial = trials.begin()
        assert trial is not None
        assert trial.folder == tmp_path / "0"
        trial.report(0.5, {"segm/AP": 0.25})
        trials.hand_back(trial)
    last = trials.begin()
    assert last is not None
    kept = trials.study.get_trials()[-1].intermediate_values
    assert kept == {SHARES // 2: 0.25}  # which the trials beside it are compared with
    trials.end(last, scores=[0.5])
    assert trials.begin() is None


def test_no_combination_is_trained_twice_and_a_small_space_ends(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search(space=("seed=range(0,4)", "roi_head.num_fcs=1,2")))
    seen = []
    while trial := trials.begin():
        seen.append(tuple(trial.overrides))
        trials.end(trial, scores=[float(len(seen))])
    assert len(seen) == len(set(seen)) == 8
    assert len(trials.records()) == 8


def test_a_sampler_that_has_converged_is_helped_out_by_random_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sampler=gp does at the end of an interval that scores best."""

    def converged(name: str, seed: int) -> BaseSampler:
        random = build_sampler("random", seed)
        return random if name == "random" else PartialFixedSampler({"trainer.clip_norm": 10.0}, random)

    monkeypatch.setattr(module, "build_sampler", converged)
    trials, seen = Trials(tmp_path, search("trials=5", "sampler=gp", space=("trainer.clip_norm=interval(0,10)",))), []
    while trial := trials.begin():
        seen.append(trial.overrides[0])
        trials.end(trial, scores=[0.5])
    assert len(seen) == len(set(seen)) == 5
    assert "trainer.clip_norm=10" in seen


def test_an_interval_with_hardly_any_values_ends_the_search(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search(space=("optimizer.lr=interval(0.1,0.1000001)",)))
    while trial := trials.begin():
        trials.end(trial, scores=[0.5])
    assert [each.overrides for each in trials.records()] == [["optimizer.lr=0.1"]]


@pytest.mark.parametrize(("score", "said"), [(float("nan"), "is nan"), (-1.0, "no such object"), (None, "has no")])
def test_a_score_that_cannot_be_compared_is_a_fault_with_its_reason(score: float | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        score_in({} if score is None else {"segm/APl": score}, "segm/APl")


def test_a_bad_trial_is_pruned_but_not_early_and_not_the_first_ones(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search("unpruned=2"))
    early, late = (EARLIEST - 1) / SHARES, (EARLIEST + 1) / SHARES
    for score in (0.5, 0.1):
        trial = trials.begin()
        assert trial is not None
        for progress in (early, late, 1.0):
            trial.report(progress, {"segm/AP": score})
        trials.end(trial, scores=[score])
    bad = trials.begin()
    assert bad is not None
    bad.report(early, {"segm/AP": 0.05})
    with pytest.raises(Pruned, match="35%"):
        bad.report(late, {"segm/AP": 0.05})
    trials.end(bad)
    good = trials.begin()
    assert good is not None
    good.report(late, {"segm/AP": 0.6})
    unhurried = Trials(tmp_path, search("unpruned=2", "pruning=none")).begin()
    assert unhurried is not None
    unhurried.report(late, {"segm/AP": 0.0})
    assert [each.state for each in trials.records()] == ["complete", "complete", "pruned", "running", "running"]


def test_of_several_metrics_none_is_reported_on_the_way(tmp_path: Path) -> None:
    """An evaluation in mid-training has no latency."""
    trial = Trials(tmp_path, search("metric=[latency,segm/AP]")).begin()
    assert trial is not None
    trial.report(0.5, {"segm/AP": 0.5})


def test_records_are_sorted_by_the_metric_and_losses_upwards(tmp_path: Path) -> None:
    scores = (0.3, 0.9, 0.5)
    for name, options, order in (
        ("score", ["metric=bbox/AP50"], [0.9, 0.5, 0.3]),
        ("loss", ["metric=val_loss/total", "evaluation.loss=true"], [0.3, 0.5, 0.9]),
    ):
        (tmp_path / name).mkdir()
        trials = Trials(tmp_path / name, search(*options))
        for score in scores:
            trial = trials.begin()
            assert trial is not None
            trials.end(trial, scores=[score])
        failed = trials.begin()
        assert failed is not None
        trials.end(failed, reason="too hot")
        records = trials.records()
        assert [each.score for each in records] == [*order, None]
        assert (records[-1].state, records[-1].reason) == ("failed", "too hot")


def test_a_failed_trial_frees_its_checkpoints_and_one_that_goes_on_keeps_them(tmp_path: Path) -> None:
    workers = [Trials(tmp_path, search("trials=5")) for _ in range(5)]  # each trains one
    trials, begun = workers[0], [trial for trial in (worker.begin() for worker in workers) if trial is not None]
    for trial in begun:
        (trial.folder / "checkpoints").mkdir(parents=True)
    first, failed, best, stopped, _running = begun
    trials.end(first, scores=[0.1])
    trials.end(failed, reason="too hot")
    trials.end(best, scores=[0.9])
    trials.hand_back(stopped)
    trials.free_checkpoints()
    assert [(trial.folder / "checkpoints").exists() for trial in begun] == [True, False, True, True, True]


def test_of_several_metrics_the_trials_that_none_beats_in_all_keep_their_checkpoints(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search("metric=[latency,segm/AP]"))
    for scores in ([10.0, 0.5], [20.0, 0.9], [30.0, 0.1]):
        trial = trials.begin()
        assert trial is not None
        (trial.folder / "checkpoints").mkdir(parents=True)
        trials.end(trial, scores=scores)
        trials.free_checkpoints()
    assert [(each.number, each.front) for each in trials.records()] == [(0, True), (1, True), (2, False)]
    assert [(tmp_path / f"{number}/checkpoints").exists() for number in range(3)] == [True, True, False]


def test_what_matters_is_said_once_there_are_enough_trials(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search("trials=24", "sampler=random"))
    while trial := trials.begin():
        assert len(trials.records()) > 9 or importances(trials.study, len(SPACE)) == {}
        trials.end(trial, scores=[float(trial.overrides[1].split("=")[1])])  # the number of convs alone
    shares = importances(trials.study, len(SPACE))
    assert max(shares, key=lambda key: shares[key]) == "roi_head.num_convs"
    assert sum(shares.values()) == pytest.approx(1)


def test_a_folder_holds_one_search(tmp_path: Path) -> None:
    Trials(tmp_path, search())
    Trials(tmp_path, search("trials=50", "minutes=3", "output_dir=elsewhere"))
    for other in (search("optimizer.weight_decay=0"), search(space=SPACE[:2]), search("metric=bbox/AP")):
        with pytest.raises(ValueError, match="holds another search; they differ in"):
            Trials(tmp_path, other)
