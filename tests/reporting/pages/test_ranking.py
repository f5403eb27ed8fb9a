"""Which jobs of a sweep differ from the best beyond chance, and means over seeds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from maskrcnn_train.evaluation.diagnostics.bootstrap import difference
from maskrcnn_train.reporting.jobs import JobRecord, read_jobs, save_job
from maskrcnn_train.reporting.pages.ranking import against_best, over_seeds
from maskrcnn_train.reporting.pages.sweep import write_sweep_report
from maskrcnn_train.settings.errors import UserError


def job(folder: Path, overrides: list[str], draws: list[float], *, images: int = 32, unread: int = 0) -> Path:
    (folder / "study").mkdir(parents=True)
    (folder / "overrides.yaml").write_text(json.dumps(overrides))
    (folder / "metrics.json").write_text(json.dumps({"segm/AP": draws[0]}))
    (folder / "metrics.jsonl").write_text(
        '{"step": 20, "loss/total": 2.0, "time/step": 1.5}\n{"step": 40, "loss/total": 1.0, "time/step": 3.0}\n'
    )
    (folder / "data.json").write_text(json.dumps({"splits": {"val": {"images": images}}}))
    (folder / "study/draws.json").write_text(json.dumps({"images": [*range(unread, images)], "segm/AP": draws}))
    return folder


def noisy(value: float, seed: int) -> list[float]:
    return [value, *np.random.default_rng(seed).normal(value, 0.01, 200).tolist()]


def test_a_difference_is_paired_over_the_images_and_clear_only_beyond_chance(tmp_path: Path) -> None:
    hard_and_easy = np.array(noisy(0.4, 0))
    best = job(tmp_path / "0", [], hard_and_easy.tolist())
    a_little_worse = job(tmp_path / "1", [], (hard_and_easy - 0.005).tolist())  # on every draw
    as_good = job(tmp_path / "2", [], noisy(0.395, 1))
    found = against_best(best, a_little_worse, "segm/AP")
    assert found is not None
    assert found.clear
    assert found == difference(hard_and_easy, hard_and_easy - 0.005)
    same = against_best(best, as_good, "segm/AP")
    assert same is not None
    assert not same.clear
    assert against_best(best, as_good, "bbox/AP") is None
    assert against_best(best, job(tmp_path / "3", [], noisy(0.3, 2), images=31), "segm/AP") is None
    assert against_best(best, job(tmp_path / "5", [], noisy(0.3, 2), unread=1), "segm/AP") is None
    at_half = ["evaluation.iou_thresholds=[0.5]"]
    assert against_best(best, job(tmp_path / "4", at_half, noisy(0.6, 3)), "segm/AP") is None


def test_means_over_seeds_have_the_interval_of_student() -> None:
    settings = {name: {"optimizer.lr": lr, "seed": seed} for name, lr, seed in ("a10", "b11", "c12", "d20")}
    (found,) = over_seeds(settings, {"a": 0.40, "b": 0.50, "c": 0.30, "d": 0.9})
    assert (found.settings, found.jobs) == ({"optimizer.lr": "1"}, ["a", "b", "c"])
    assert found.mean == pytest.approx(0.4)
    assert found.high - 0.4 == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert over_seeds(settings, {"a": 0.4}) == []


def test_the_page_says_which_jobs_are_as_good_as_the_best_and_gives_means(tmp_path: Path) -> None:
    shared = np.array(noisy(0.4, 0))
    job(tmp_path / "0", ["optimizer.lr=0.1", "seed=0"], shared.tolist())
    job(tmp_path / "1", ["optimizer.lr=0.1", "seed=1"], noisy(0.396, 1))
    job(tmp_path / "2", ["optimizer.lr=0.2", "seed=0"], (shared - 0.05).tolist())
    page = write_sweep_report(tmp_path).read_text()
    assert "the best" in page
    assert page.count("not distinguishable</td>") == 1
    assert "-5.0 (-5.0 to -5.0)" in page
    assert "39.8</td><td>37.3 to 42.3</td>" in page  # 0.398 +- 12.706 * 0.00283 / sqrt(2)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [row["job"] for row in rows] == ["0", "1", "2"]
    assert [row["minutes"] for row in rows] == ["1.5"] * 3  # 20 steps of 1.5 s, 20 of 3 s
    assert float(rows[2]["difference"]) == pytest.approx(-0.05)
    assert float(rows[2]["difference high"]) < 0
    assert rows[0]["difference"] == ""


def test_files_of_jobs_that_were_edited_are_answered(tmp_path: Path) -> None:
    for name in ("0", "1"):
        job(tmp_path / name, [f"seed={name}"], noisy(0.5, int(name)))
        save_job(tmp_path, JobRecord(int(name), {}, [f"seed={name}"], state="finished"))
    record = tmp_path / "jobs/1.json"
    record.write_text(record.read_text().replace('"number": 1', '"number": "one"'))
    (tmp_path / "1/data.json").write_text('{"splits": []}')
    write_sweep_report(tmp_path)
    assert [each.number for each in read_jobs(tmp_path)] == [0, 1]
    record.rename(tmp_path / "jobs/copy.json")
    with pytest.raises(UserError, match=r"copy\.json is not the file of a job; remove it"):
        write_sweep_report(tmp_path)
