"""`python -m maskrcnn_train.analyze`: where a model loses objects, and how other budgets would do."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.prediction.memory import advising_on_memory
from maskrcnn_train.settings.command_rules import check_analyze_rules
from maskrcnn_train.settings.command_schema import AnalyzeConfig
from maskrcnn_train.settings.errors import UserError

if TYPE_CHECKING:
    from maskrcnn_train.analysis.analyst import Analysis
    from maskrcnn_train.data.splits.splitting import Split

HELP = """
Where a model loses objects (which stage, which budget), and how it would do with other test-time budgets.

  python -m maskrcnn_train.analyze checkpoint=RUN/checkpoints/best.pt
  python -m maskrcnn_train.analyze checkpoint=RUN/checkpoints/best.pt what=[funnel] split=test
  python -m maskrcnn_train.analyze checkpoint=RUN/checkpoints/best.pt budgets.post_test=[100,300,1000,2000]
"""
logger = logging.getLogger("maskrcnn_train")


def analyze(config: AnalyzeConfig) -> Analysis:
    """Analyse as configured and write everything into the folder. Raises UserError for the person's mistakes."""
    from maskrcnn_train.analysis.analyst import Analyst
    from maskrcnn_train.data.loading import evaluation_loader
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.prediction.cost import slow_box_head
    from maskrcnn_train.prediction.scoring import open_on_split
    from maskrcnn_train.reporting.analyses import analysis_tables, write_analysis
    from maskrcnn_train.reporting.terminal.progress import Forecast, Progress, setup_logging

    predictor, split = open_on_split(Path(config.checkpoint), config)
    if predictor.config.data.tile.size is not None:
        raise UserError(f"{config.checkpoint} was trained in tiles, and analyze follows objects of whole images only")
    split = _some_images(split, config.max_images, config.seed)
    loader = evaluation_loader(predictor.config, split, predictor.classes)
    folder = open_run_folder(config.output_dir, "analyze")
    console = setup_logging(folder / "analyze.log")
    forecast = Forecast("analysis", slow_box_head(predictor.config))
    with Progress("analyze", log_every=20, console=console, forecast=forecast) as progress:
        tested = predictor.model, predictor.config, config, predictor.classes, loader.dataset.ground_truth()
        analyst = Analyst(*tested, predictor.autocast, predictor.pasting)
        analysis = analyst.analyze(loader, lambda done: progress.update(done, len(split), {}))
    write_analysis(folder, analysis, Path(config.checkpoint))
    for text in analysis_tables(analysis):
        logger.info("%s", text)
    logger.info("written to %s", folder)
    return analysis


def _some_images(split: Split, most: int | None, seed: int) -> Split:
    """The split, or `most` of its images drawn at random, in their order."""
    import numpy as np

    if most is None or len(split) <= most:
        return split
    chosen = np.random.default_rng(seed).choice(split.rows, most, replace=False)
    return replace(split, rows=np.sort(chosen))


def run(config: AnalyzeConfig) -> None:
    with advising_on_memory("lower evaluation.batch_size, max_images, num_workers or the values of budgets"):
        analyze(config)


def main() -> None:
    run_command("analyze", AnalyzeConfig, check_analyze_rules, run, HELP)


if __name__ == "__main__":
    main()
