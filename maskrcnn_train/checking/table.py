"""What a check found, as a table that fits a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.settings.overrides import overrides_text

STYLES = {"error": "bold red", "warning": "yellow", "advice": "cyan"}
NARROWEST = 100


def findings_table(findings: Sequence[Finding], *, width: int = 140, color: bool = False) -> str:
    """One row a finding: severity, split, what, how many, the first of them, and what answers it. Long cells wrap."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=False)
    for name, ratio in (("", None), ("split", None), ("found", 5), ("count", None), ("which", 4), ("answer", 5)):
        grid.add_column(name, ratio=ratio, justify="right" if name == "count" else "left", overflow="fold")
    for finding in findings:
        count = str(len(finding.items)) if len(finding.items) else ""
        answer = "; ".join(part for part in (overrides_text(finding.override), finding.fix) if part)
        severity = Text(finding.severity, style=STYLES[finding.severity])
        cells = finding.split, finding.what, count, finding.examples, answer
        grid.add_row(severity, *(Text(cell) for cell in cells))
    stream = io.StringIO()
    console = Console(
        file=stream, width=max(width, NARROWEST), color_system="standard" if color else None, force_terminal=color
    )
    console.print(grid)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")
