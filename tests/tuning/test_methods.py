"""Which values a search tries next, and which trials it stops."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs the extra tune")

from searches import search

from maskrcnn_train.tuning import methods
from maskrcnn_train.tuning.methods import EARLIEST, NEEDS, SHARES, check_sampler
from maskrcnn_train.tuning.trials import Pruned, Trials

NUMBERS = ("trainer.clip_norm=interval(0,10)", "optimizer.lr=tag(log,interval(1e-5,1e-2))")


def draws(folder: Path, *overrides: str) -> list[list[str]]:
    """The values of all trials of a search whose score is highest where the first value is 8."""
    folder.mkdir()
    trials, found = Trials(folder, search(*overrides, space=NUMBERS)), []
    while trial := trials.begin():
        found.append(trial.overrides)
        trials.end(trial, scores=[-abs(float(trial.overrides[0].split("=")[1]) - 8)])
    return found


@pytest.mark.parametrize("sampler", ["cmaes", "nsgaii", "gp"])
def test_every_sampler_repeats_itself_and_is_not_random(sampler: str, tmp_path: Path) -> None:
    for package in NEEDS.get(sampler, ()):
        pytest.importorskip(package, reason="needs the extra tune")
    options = ["trials=12", f"sampler={sampler}"]
    found = draws(tmp_path / "a", *options)
    assert draws(tmp_path / "b", *options) == found
    assert draws(tmp_path / "c", "trials=12", "sampler=random") != found


def test_a_sampler_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find_spec", lambda name: None if name == "scipy" else find_spec(name))
    check_sampler("tpe")
    with pytest.raises(ValueError, match=r"sampler=gp needs scipy; install it with: pip install"):
        check_sampler("gp")


def test_a_grid_is_tried_in_its_order_after_the_first_trial(tmp_path: Path) -> None:
    space = ("roi_head.num_convs=range(0,4)", "roi_head.num_fcs=1,2")
    trials, found = Trials(tmp_path, search("sampler=grid", space=space)), []
    while trial := trials.begin():
        found.append(" ".join(each.split("=")[1] for each in trial.overrides))
        trials.end(trial, scores=[0.5])
    rest = [f"{convs} {fcs}" for convs in range(4) for fcs in (1, 2)]
    assert found == [found[0], *(each for each in rest if each != found[0])]


def test_hyperband_stops_trials_that_fall_behind_but_not_early(tmp_path: Path) -> None:
    trials = Trials(tmp_path, search("trials=8", "pruning=hyperband", space=NUMBERS))
    pruned = 0
    for score in (0.9, 0.8, 0.7, 0.6, 0.1, 0.1, 0.1, 0.1):
        trial = trials.begin()
        assert trial is not None
        trial.report((EARLIEST - 1) / SHARES, {"segm/AP": score})
        try:
            trial.report(EARLIEST / SHARES, {"segm/AP": score})
            trial.report(0.95, {"segm/AP": score})
            trials.end(trial, scores=[score])
        except Pruned:
            trials.end(trial)
            pruned += score == 0.1
    assert pruned >= 2
