"""Which layers the initial weights leave random, and because of which settings."""

from __future__ import annotations

from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.model.weights.loading import WeightsReport


def check_weights(report: WeightsReport) -> list[Finding]:
    """A finding for each reason for which layers are re-initialised, for classes that start fresh, for each warning."""
    reasons: dict[str, list[str]] = {}
    for each in report.reinitialized:
        reasons.setdefault(each.reason, []).append(each.layer)
    findings = [
        Finding("advice", "weights-fresh", f"layers re-initialised: {reason}", "", "layer", layers, fix=_answer(reason))
        for reason, layers in reasons.items()
    ]
    fresh_classes = [name for name, source in report.classes.items() if source is None]
    if fresh_classes:
        what = f"classes that {report.origin} does not know: their predictor rows start fresh"
        fix = "weights.class_map={name in the weights: name here}, where they are the same thing"
        findings.append(Finding("advice", "weights-classes", what, "", "class", fresh_classes, fix=fix))
    return [*findings, *(Finding("warning", "weights-differ", warning) for warning in report.warnings)]


def _answer(reason: str) -> str:
    return f"set {reason} as in the weights to keep them" if "." in reason else ""
