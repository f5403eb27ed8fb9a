"""Files of a run that someone else may have made: what is wrong is said in one line, naming the file and the key."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, TypeVar

import numpy as np
import pytest
from scenes import full_run
from typing_extensions import TypeAliasType

from maskrcnn_train.reporting.forms import fitted
from maskrcnn_train.reporting.pages.html import write_report
from maskrcnn_train.reporting.pages.sweep import write_sweep_report
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Ints


@dataclass
class Thing:
    size: float
    name: str | None
    parts: list[int] = field(default_factory=list)


@pytest.mark.parametrize(
    ("form", "plain", "expected"),
    [
        (Thing, {"size": 1, "name": None, "other": 7}, Thing(1, None, [])),
        ([Thing], [{"size": 1.5, "name": "a", "parts": [1]}], [Thing(1.5, "a", [1])]),
        ({"a": int}, {"a": 1, "b": "kept"}, {"a": 1, "b": "kept"}),
        ({str: [{"n": int}]}, {"x": [{"n": 1}]}, {"x": [{"n": 1}]}),
        (dict[str, Optional[float]], {"x": None, "y": 2}, {"x": None, "y": 2}),
    ],
)
def test_what_fits_is_taken(form: Any, plain: Any, expected: Any) -> None:
    assert fitted(form, plain, "f") == expected


@pytest.mark.parametrize(
    ("form", "plain", "message"),
    [
        (Thing, {"name": "a"}, "f has no size;"),
        (Thing, {"size": "1", "name": "a"}, "f, size is '1' rather than a number;"),
        (list[Thing], [{"size": 1, "name": 2}], "f, row 0, name is 2 rather than a text;"),
        ({"a": int}, {"a": True}, "f, a is True rather than a whole number;"),
        ({"a": [int]}, {"a": {}}, "f, a is {} rather than a list;"),
        (dict[str, int], [], r"f is \[\] rather than an object;"),
        (Ints, [[1, 2], [3]], "f is no square table;"),
    ],
)
def test_what_does_not_fit_is_named(form: Any, plain: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fitted(form, plain, "f")


Kind = TypeVar("Kind", bound=np.generic)
Alias = TypeAliasType("Alias", np.ndarray[tuple[Any, ...], np.dtype[Kind]], type_params=(Kind,))


@pytest.mark.parametrize("form", [Ints, Alias[np.int64]], ids=["here", "alias, as in numpy 2.5 for Python 3.12"])
def test_a_table_becomes_an_array(form: Any) -> None:
    found = fitted(form, [[1, 2], [3, 4]], "f")
    assert found.dtype == np.int64
    assert np.array_equal(found, [[1, 2], [3, 4]])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_run(tmp_path_factory.mktemp("page") / "run").parent


def without(content: dict[str, Any], *keys: Any) -> None:
    for key in keys[:-1]:
        content = content[key]
    del content[keys[-1]]


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        ("study/study.json", ("segm", "errors", "kinds", 0, "ap_gain"), "kinds, row 0 has no ap_gain"),
        ("study/study.json", ("bbox", "threshold"), "bbox has no threshold"),
        ("study/study.json", ("bbox", "class_names", 0), "one row of the confusion for each class"),
        ("study/study.json", ("bbox", "confidence", 0, "f1", 0), "lists of all curves of a chart must be equally"),
        ("study/study.json", ("segm", "precision_recall", 0, "recall", 0), "lists of all curves of a chart must be"),
        ("data.json", ("splits", "val", "images"), "splits, val has no images"),
        ("analysis/analysis.json", ("winners", "fast", "setting", "post_test"), "fast, setting has no post_test"),
        ("analysis/analysis.json", ("funnel", "rows", 0, "by"), "rows, row 0 has no by"),
    ],
)
def test_a_page_says_which_key_a_file_lacks(run: Path, file: str, keys: tuple[Any, ...], message: str) -> None:
    before = (run / file).read_text()
    content = json.loads(before)
    without(content, *keys)
    (run / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        write_report(run)
    (run / file).write_text(before)


def test_what_is_no_number_is_left_out_of_scores_and_history(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"segm/AP/odd": "high", "loss": None}))
    lines = [{"step": "x", "lr": 1}, {"step": 5, "images_per_second": "fast", "lr": []}, [7], {"step": 9, "lr": 0.5}]
    (run / "metrics.jsonl").write_bytes(b"\xff\n" + "\n".join(map(json.dumps, lines)).encode())
    text = write_report(run).read_text()
    assert "<b>9</b><span>steps" in text
    assert "images a second" not in text
    (run / "metrics.jsonl").unlink()


def test_a_damaged_picture_is_left_out(run: Path) -> None:
    (run / "pictures").mkdir()
    (run / "pictures" / "00001.jpg").write_bytes(b"no picture")
    assert 'id="pictures"' not in write_report(run).read_text()


@pytest.mark.parametrize("content", [{}, {"metrics": ["segm/AP"], "importances": {}, "trials": [{"number": 1}]}])
def test_a_search_says_what_its_trials_lack(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "overrides.yaml").write_text("[seed=1]")
    (tmp_path / "trials.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"trials\.json.* has no"):
        write_sweep_report(tmp_path)
