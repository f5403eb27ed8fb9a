"""`python -m maskrcnn_train.check`: finds faults of data, settings, weights and machine before a training starts."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_train.checking.advice import combined, training_command, write_advice
from maskrcnn_train.checking.anchors import AnchorRow
from maskrcnn_train.checking.annotations import check_annotations
from maskrcnn_train.checking.classes import count_classes
from maskrcnn_train.checking.findings import SEVERITIES, Finding, findings_table, in_order
from maskrcnn_train.checking.images import check_images, check_pixels
from maskrcnn_train.checking.objects import training_min_size
from maskrcnn_train.checking.reading import CheckedData, read_data
from maskrcnn_train.checking.settings import check_settings
from maskrcnn_train.cli.main import run_command
from maskrcnn_train.data.tile_layout import lay_out
from maskrcnn_train.files import write_json
from maskrcnn_train.model.weights.published import imagenet_at_hand
from maskrcnn_train.settings.command_rules import check_preflight_rules, with_own_pixels
from maskrcnn_train.settings.command_schema import CheckConfig
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import overrides_of

if TYPE_CHECKING:
    from maskrcnn_train.checking.model import Forecasts

HELP = """
Check a training before it runs: data, settings, weights, memory. Takes the keys of the training.

  python -m maskrcnn_train.check data=roboflow data.root=DIR weights=coco
  python -m maskrcnn_train.check data=roboflow data.root=DIR decode=false        opens no image
  python -m maskrcnn_train.check data=roboflow data.root=DIR view=true           and draws what the model sees
"""
logger = logging.getLogger("maskrcnn_train")


@dataclass
class CheckResult:
    """findings: errors first. folder: where findings.json and experiment/advice.yaml are.

    command: the training with all the advice, for a shell; None without advice.
    """

    findings: list[Finding]
    folder: Path
    command: str | None

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)


def check(config: CheckConfig, given: Sequence[str] | None = None) -> CheckResult:
    """Check as configured, print the tables and write the files. Raises UserError for mistakes in the settings.

    Faults of the data are findings; as far as possible no fault hides another. given: the arguments of the command
    line, to be told with the advice; None: all that differs from the defaults.
    """
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.reporting.terminal.progress import Progress, setup_logging

    asked, config = config, with_own_pixels(config)
    data = read_data(config)
    folder = open_run_folder(config.output_dir, "check")
    console = setup_logging(folder / "check.log")
    for note in data.notes:
        logger.info("%s", note)
    findings = data.findings + [found for split in data.splits.values() for found in check_annotations(split)]
    anchors: list[AnchorRow] = []
    forecasts = None
    if data.classes is not None:
        offline = config.weights.source == "none" and not imagenet_at_hand(config.backbone.name)
        found, anchors = check_settings(config, data.splits, data.classes, offline=offline)
        findings += found
    if config.decode:
        with Progress("images", log_every=1000, console=console) as bar:
            findings += check_images(data.with_images, asked, lambda done, total: bar.update(done, total, {}))
    else:
        findings += check_pixels([], asked)
    if data.classes is not None and "train" in data.splits and len(data.splits["train"]):
        from maskrcnn_train.checking.model import check_model

        num_val = len(lay_out(data.splits["val"], config.data.tile)) if "val" in data.splits else 0
        training = data.splits["train"]
        found, forecasts = check_model(config, training, data.classes, num_val=num_val, timing=config.timing)
        findings += found
    findings = in_order(findings)
    _log_tables(config, data, anchors, findings)
    _write(folder, findings, data, anchors, forecasts)
    advice = combined(findings)
    command = training_command(overrides_of(asked, default_config()) if given is None else given, advice)
    if advice:
        logger.info("to train with the advice (%s):\n%s", folder / "experiment" / "advice.yaml", command)
    if config.view:
        _view(config, folder)
    return CheckResult(findings, folder, command if advice else None)


def _view(config: CheckConfig, folder: Path) -> None:
    """Draw the sheet. A fault that stops a training stops the drawing too."""
    from maskrcnn_train.data.splits.splitting import read_splits
    from maskrcnn_train.reporting.drawing.sheet import write_sheet

    try:
        sheet = write_sheet(config, read_splits(config), folder / "view.png", count=config.view_count)
        logger.info("what the model sees: %s", sheet)
    except UserError as error:
        logger.warning("no sheet of what the model sees: %s", error)


def _log_tables(config: CheckConfig, data: CheckedData, anchors: list[AnchorRow], findings: list[Finding]) -> None:
    from maskrcnn_train.reporting.terminal.tables import table

    if data.classes is not None:
        counts = count_classes(data.splits, data.classes)
        rows = [*zip(data.classes.names, *counts.values(), strict=True), ("all", *map(sum, counts.values()))]
        logger.info("%s", table("objects of each class", ["class", *counts], rows))
    if anchors:
        title = f"training objects and the anchors that meet them best, shorter side {training_min_size(config)} px"
        upper, lower = config.rpn.iou.upper, config.rpn.iou.lower
        columns = ["level", "anchor", "objects", "mean IoU", f"only as best (< {upper:g})", f"hardly (< {lower:g})"]
        cells = [(level, f"{size:g}", count, f"{iou:.2f}", *few) for level, size, count, iou, *few in anchors]
        logger.info("%s", table(title, columns, cells))
    if findings:
        logger.info("%s", findings_table(findings, shutil.get_terminal_size((140, 0)).columns))
    for fix in dict.fromkeys(finding.fix for finding in findings if "python -m " in finding.fix):
        logger.info("%s", fix)  # again, because the table breaks lines


def _write(
    folder: Path, findings: list[Finding], data: CheckedData, anchors: list[AnchorRow], forecasts: Forecasts | None
) -> None:
    """findings.json with everything, and the advice as an experiment."""
    plain: dict[str, Any] = {
        "findings": [finding.to_plain() for finding in findings],
        "classes": {"names": data.classes.names, **count_classes(data.splits, data.classes)} if data.classes else {},
        "anchors": [row._asdict() for row in anchors],
    }
    if forecasts is not None:
        memory, took = forecasts.memory, forecasts.time
        plain["memory"] = {"step_bytes": int(memory.step), "available_bytes": memory.available}
        logger.info("memory of a training step: %s", memory)
        if took is not None:
            plain["time"] = asdict(took)
            logger.info("time on this machine: %s", took)
    write_json(folder / "findings.json", plain, indent=2)
    write_advice(findings, folder)
    counts = [sum(finding.severity == severity for finding in findings) for severity in SEVERITIES]
    logger.info("errors: %d, warnings: %d, pieces of advice: %d; all items: %s", *counts, folder / "findings.json")


def run(config: CheckConfig, given: Sequence[str] | None = None) -> None:
    if check(config, given).has_errors:
        sys.exit(1)


def main() -> None:
    given = None if {"-m", "--multirun"} & {*sys.argv} else sys.argv[1:]
    run_command("check", CheckConfig, check_preflight_rules, partial(run, given=given), HELP)


if __name__ == "__main__":
    main()
