"""`python -m maskrcnn_train.evaluate`: COCO mAP of a checkpoint, or of a COCO results file of any program."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.files import write_json
from maskrcnn_train.prediction.memory import BUDGETS, advising_on_memory
from maskrcnn_train.settings.command_rules import check_evaluate_rules, is_results
from maskrcnn_train.settings.command_schema import EvaluateConfig, StudyConfig
from maskrcnn_train.settings.schema import EvaluationConfig

if TYPE_CHECKING:
    from rich.console import Console

    from maskrcnn_train.evaluation.coco.metrics import CocoResult
    from maskrcnn_train.prediction.scoring import Candidate, Scored

HELP = """
COCO mAP of a checkpoint on any split, or of a COCO results file; or whether one model is better than another.

  python -m maskrcnn_train.evaluate checkpoint=RUN/checkpoints/best.pt split=test
  python -m maskrcnn_train.evaluate checkpoint=RUN/checkpoints/best.pt rpn.nms.post_test=300 tta.flip=true
  python -m maskrcnn_train.evaluate predictions=results.json annotations=instances_val2017.json
  python -m maskrcnn_train.evaluate compare=[A/checkpoints/best.pt,B/checkpoints/best.pt]
"""
logger = logging.getLogger("maskrcnn_train")


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Score as configured and write everything into the folder; returns the metrics, of b where two are compared.

    Raises UserError for the person's mistakes.
    """
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.evaluation.diagnostics.comparison import same_images
    from maskrcnn_train.prediction.scoring import measure_alike
    from maskrcnn_train.reporting.terminal.progress import setup_logging

    paths = config.compare or [str(config.checkpoint or config.predictions)]
    candidates = [_open(config, path) for path in paths]
    if config.compare is not None:
        same_images(*[each.ground_truth for each in candidates])  # before the time is spent
    folder = open_run_folder(config.output_dir, "evaluate")
    console = setup_logging(folder / "evaluate.log")
    if config.compare is not None:
        measure_alike(*candidates)
    scored = [score_candidate(each, path, console) for path, each in zip(paths, candidates, strict=True)]
    if config.compare is not None:
        same_images(*[each.ground_truth for each in scored])  # without those that either could not read
        _compare(scored, config, folder)
    else:
        write_scored(scored[0], config.evaluation, config.seed, folder)
        if config.checkpoint is not None:
            write_json(folder / "predictions.json", scored[0].results)
    logger.info("written to %s", folder)
    return scored[-1].metrics


def _open(config: EvaluateConfig, path: str) -> Candidate:
    from maskrcnn_train.prediction.scoring import open_checkpoint, open_file

    if config.checkpoint is not None or (config.compare is not None and not is_results(path)):
        return open_checkpoint(Path(path), config)
    return open_file(Path(path), Path(str(config.annotations)), config.evaluation)


def score_candidate(candidate: Candidate, path: str, console: Console) -> Scored:
    """Its scores, with a progress bar."""
    from maskrcnn_train.reporting.terminal.progress import Forecast, Progress

    num_images = len(candidate.ground_truth["images"])
    forecast = Forecast("evaluation", candidate.why_slow)
    with Progress(Path(path).name, log_every=100, console=console, forecast=forecast) as progress:
        return candidate.score(candidate.evaluation, lambda done: progress.update(done, num_images, {}))


def write_scored(scored: Scored, section: StudyConfig | EvaluationConfig, seed: int, folder: Path) -> None:
    """Write metrics.json, classes.csv and, if asked for, the study; and tell what they say."""
    from maskrcnn_train.evaluation.coco.id_zero import explain_id_zero
    from maskrcnn_train.evaluation.coco.metrics import explain_absent
    from maskrcnn_train.files import write_rows
    from maskrcnn_train.reporting.diagnostics import diagnostics_tables, write_diagnostics
    from maskrcnn_train.reporting.terminal.tables import class_table, metrics_table

    write_json(folder / "metrics.json", scored.metrics, indent=2)
    write_rows(folder / "classes.csv", _class_rows(scored.result))
    logger.info("%s", class_table(scored.result))
    if section.study:
        diagnostics = scored.diagnose(section.bootstrap, seed)
        write_diagnostics(folder / "study", diagnostics, scored.ground_truth)
        for each in diagnostics.values():
            logger.info("%s", diagnostics_tables(each))
    notes = explain_id_zero(scored.ground_truth, scored.results, scored.result)
    for sentence in [*explain_absent(scored.result), *notes]:
        logger.info("%s", sentence)
    if losses := [f"{name[9:]} {loss:.4f}" for name, loss in scored.metrics.items() if name.startswith("val_loss/")]:
        logger.info("losses on these images: %s", ", ".join(losses))
    logger.info("%s", metrics_table(scored.metrics))


def _compare(scored: list[Scored], config: EvaluateConfig, folder: Path) -> None:
    from maskrcnn_train.evaluation.diagnostics.comparison import compare
    from maskrcnn_train.reporting.terminal.tables import comparison_table

    assert config.compare is not None
    first, second = config.compare
    diagnostics = [each.diagnose(config.evaluation.bootstrap, config.seed) for each in scored]
    if diagnostics[0].keys() != diagnostics[1].keys():
        logger.warning("only one of the two has masks: boxes alone are compared")
    comparisons = compare(diagnostics[0], diagnostics[1])
    num_images = len(scored[0].ground_truth["images"])
    plain = {"a": first, "b": second, "images": num_images, "scores": [each.to_plain() for each in comparisons]}
    write_json(folder / "comparison.json", plain, indent=2)
    logger.info("a: %s\nb: %s\n%s", first, second, comparison_table(comparisons, num_images))


def _class_rows(result: CocoResult) -> list[dict[str, object]]:
    """Objects and AP of each class."""
    return [
        {"category_id": class_id, "class": name, "objects": result.support[class_id]}
        | {f"{kind}/AP": result.metrics[f"{kind}/AP/{name}"] for kind in result.precision}
        for class_id, name in result.class_names.items()
    ]


def run(config: EvaluateConfig) -> float:
    with advising_on_memory(f"lower evaluation.batch_size, num_workers, evaluation.bootstrap, {BUDGETS}"):
        metrics = evaluate(config)
    return metrics["segm/AP" if "segm/AP" in metrics else "bbox/AP"]


def main() -> None:
    run_command("evaluate", EvaluateConfig, check_evaluate_rules, run, HELP)


if __name__ == "__main__":
    main()
