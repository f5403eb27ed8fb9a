"""The load report of initial weights: a short one for the terminal, every layer for the run's weights.txt."""

from maskrcnn_train.model.weights.loading import Reinitialized, WeightsReport
from maskrcnn_train.reporting.terminal.tables import table

SHOWN = 12  # fresh layers on the terminal


def weights_summary(report: WeightsReport) -> str:
    """What was loaded, kept, re-initialised and unused, for the terminal."""
    rows = [
        ("loaded", len(report.loaded), ""),
        ("kept by class name", len(report.adapted), _classes(report)),
        ("re-initialised", len(report.reinitialized), ""),
        ("unused", len(report.unused), ""),
    ]
    lines = [table(f"initial weights: {report.origin}", ["", "layers", ""], rows)]
    if report.reinitialized:
        shown = [_row(each) for each in report.reinitialized[:SHOWN]]
        more = f" (first {SHOWN}; all in weights.txt)" if len(report.reinitialized) > SHOWN else ""
        lines.append(table(f"re-initialised layers{more}", ["layer", "here", "weights", "because of"], shown))
    return "\n".join(lines)


def weights_listing(report: WeightsReport) -> str:
    """Every layer, one a line."""
    lines = [f"initial weights: {report.origin}", *(f"warning: {warning}" for warning in report.warnings), ""]
    lines += [f"class\t{name}\t{source or 'fresh'}" for name, source in report.classes.items()]
    lines += [f"loaded\t{layer}" for layer in report.loaded]
    lines += [f"kept by class name\t{layer}" for layer in report.adapted]
    lines += ["re-initialised\t" + "\t".join(_row(each)) for each in report.reinitialized]
    lines += [f"unused\t{layer}" for layer in report.unused]
    return "\n".join(lines) + "\n"


def _classes(report: WeightsReport) -> str:
    if not report.classes:
        return ""
    kept = [name if name == source else f"{name} <- {source}" for name, source in report.classes.items() if source]
    fresh = [name for name, source in report.classes.items() if source is None]
    parts = [f"{len(kept)} of {len(report.classes)} classes: {', '.join(kept)}" if kept else "no class in common"]
    return "; ".join([*parts, f"fresh: {', '.join(fresh)}"] if fresh else parts)


def _row(each: Reinitialized) -> tuple[str, str, str, str]:
    there = "-" if each.there is None else _size(each.there)
    return each.layer, _size(each.here), there, each.reason


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"
