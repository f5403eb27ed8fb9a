"""A study as a page shows it: charts, and tables with the shares behind their shading and bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskrcnn_train.reporting.drawing.charts import Chart, Points, line_chart
from maskrcnn_train.reporting.terminal.tables import KIND_WORDS

MOST_COLORED = 10  # classes; more lines than that cannot be told apart
MOST_MISTAKES = 10
UNIT = (0.0, 1.0)
CUTS = [number / 100 for number in range(101)]  # of the studies of older versions, which do not say
IDEAL = "as it should be"


@dataclass
class Cell:
    """Of the confusion matrix. share: of its row; right: on the diagonal."""

    count: int
    share: float
    right: bool


@dataclass
class Bar:
    """A row with a count and shares 0 to 1. text: its name; note: what it means."""

    text: str
    note: str
    count: int
    shares: list[float]


@dataclass
class StudyPage:
    """One kind. confusion: a row for each class, last: background. mistakes: (is, taken for, count), most frequent
    first. errors: share: AP it costs; sizes: shares found, and found above the threshold. calibration, its error: None
    where scores are not probabilities."""

    word: str
    threshold: float
    class_names: list[str]
    curves: list[Chart]
    confusion: list[list[Cell]]
    mistakes: list[tuple[str, str, int]]
    error_iou: float
    error_ap: float
    errors: list[Bar]
    sizes: list[Bar]
    calibration: Chart | None
    calibration_error: float | None


def study_pages(study: Mapping[str, Any]) -> list[StudyPage]:
    """Masks first."""
    return [_study_page(kind, study[kind]) for kind in ("segm", "bbox") if kind in study]


def _study_page(kind: str, study: Mapping[str, Any]) -> StudyPage:
    names = list(study["class_names"])
    errors, calibration = study["errors"], study["calibration"]
    return StudyPage(
        word=KIND_WORDS[kind],
        threshold=study["threshold"],
        class_names=names,
        curves=[chart for chart in (_precision_recall(study), _confidence(study)) if chart],
        confusion=_confusion(study["confusion"]),
        mistakes=_mistakes(study["confusion"], names),
        error_iou=errors["iou"],
        error_ap=errors["ap"],
        errors=[Bar(each["name"], each["meaning"], each["count"], [each["ap_gain"]]) for each in errors["kinds"]],
        sizes=[_size_bar(each) for each in study["sizes"]],
        calibration=_calibration(calibration) if calibration else None,
        calibration_error=calibration["error"] if calibration else None,
    )


def _precision_recall(study: Mapping[str, Any]) -> Chart | None:
    """At IoU .5: the mean over the classes, and each class."""
    curves = [curve for curve in study["precision_recall"] if round(curve["iou"], 3) == 0.5]
    by_class = {curve["class_name"]: _points(curve["recall"], curve["precision"]) for curve in curves}
    series = {"mean of the classes": _mean(list(by_class.values())), **by_class} if by_class else {}
    many = list(by_class) if len(by_class) > MOST_COLORED else []
    label, note = "recall, IoU 0.5", "one class each"
    return line_chart("Precision", series, x_label=label, x_range=UNIT, y_range=UNIT, thin=many, thin_note=note)


def _confidence(study: Mapping[str, Any]) -> Chart | None:
    """Means over the classes, by the score from which detections count."""
    curves = study["confidence"]
    series = {
        word: _mean([_points(curve.get("cuts", CUTS), curve[key]) for curve in curves])
        for word, key in (("F1", "f1"), ("precision", "precision"), ("recall", "recall"))
        if curves
    }
    title = "F1, precision, recall: means of the classes"
    return line_chart(title, series, x_label="score from which detections count", y_range=UNIT)


def _calibration(found: Mapping[str, Any]) -> Chart | None:
    pairs = zip(found["scores"], found["precision"], strict=True)
    points = [(score, share) for score, share in pairs if score is not None]
    series: dict[str, Points] = {"share that is right": points, IDEAL: [(0.0, 0.0), (1.0, 1.0)] if points else []}
    title = "Calibration: detections that are right"
    return line_chart(title, series, x_label="score", x_range=UNIT, y_range=UNIT, thin=[IDEAL], thin_note=IDEAL)


def _points(xs: list[float], ys: list[float]) -> list[tuple[float, float]]:
    return list(zip(xs, ys, strict=True))


def _mean(curves: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Of curves at the same places."""
    return [(group[0][0], sum(y for _, y in group) / len(group)) for group in zip(*curves, strict=True)]


def _confusion(matrix: list[list[int]]) -> list[list[Cell]]:
    rows = []
    for number, row in enumerate(matrix):
        total = max(sum(row), 1)
        rows.append([Cell(count, count / total, place == number < len(matrix) - 1) for place, count in enumerate(row)])
    return rows


def _mistakes(matrix: list[list[int]], names: list[str]) -> list[tuple[str, str, int]]:
    """Between classes: what is missed or seen where nothing is stands in the table's last column and row."""
    found = [
        (names[row], names[column], matrix[row][column])
        for row in range(len(names))
        for column in range(len(names))
        if row != column and matrix[row][column]
    ]
    return sorted(found, key=lambda each: -each[2])[:MOST_MISTAKES]


def _size_bar(bucket: Mapping[str, Any]) -> Bar:
    low, high = bucket["low"], bucket["high"]
    text = f"from {low:g}" if high is None else f"{low:g} to {high:g}"
    return Bar(text, "", bucket["objects"], [bucket["found"], bucket["found_above_threshold"]])
