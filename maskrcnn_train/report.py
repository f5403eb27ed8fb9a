"""`python -m maskrcnn_train.report`: one HTML page of a run or of a sweep, from the files in its folder."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.settings.command_rules import check_report_rules
from maskrcnn_train.settings.command_schema import ReportConfig
from maskrcnn_train.settings.compose import config_from_plain, load_command_config
from maskrcnn_train.settings.errors import UserError, one_line

if TYPE_CHECKING:
    from maskrcnn_train.data.dataset import CocoDataset
    from maskrcnn_train.prediction.validation import Validation
    from maskrcnn_train.reporting.pages.gallery import Gallery, Scene
    from maskrcnn_train.settings.schema import TrainConfig

HELP = """
One HTML page of a run or of a sweep, to look at and to pass on: it needs no other file and no network.

  python -m maskrcnn_train.report run=RUN
  python -m maskrcnn_train.report run=RUN analysis=ANALYSIS output=page.html
  python -m maskrcnn_train.report run=SWEEP
"""


def report(config: ReportConfig) -> tuple[Path, str]:
    """Write the page as configured; returns its path, and why pictures could not be drawn again, or nothing.

    Raises UserError for a folder that holds neither a run nor a sweep.
    """
    from maskrcnn_train.reporting.pages.html import write_report
    from maskrcnn_train.reporting.pages.sweep import is_sweep, write_sweep_report

    folder = Path(config.run)
    output, analysis = (None if path is None else Path(path) for path in (config.output, config.analysis))
    if is_sweep(folder):
        if config.analysis is not None or config.data is not None:
            raise UserError(f"run={folder} is a sweep; analysis and data belong to the page of one run")
        return write_sweep_report(folder, output), ""
    gallery, reason = None, ""
    try:
        gallery = _gallery(_read_scene(folder, config), config)
    except (UserError, OSError) as error:  # the data may be gone by now; the page says what it lacks
        reason = one_line(error)
    note = f"The validation images could not be drawn again: {reason}" if reason else ""
    return write_report(folder, output=output, analysis=analysis, gallery=gallery, gallery_note=note), reason


def report_training(run_dir: Path, validation: Validation, metrics: dict[str, float]) -> Path:
    """The page at the end of a training, whose data, results and metrics are in memory."""
    from maskrcnn_train.reporting.pages.html import write_report

    scene = _scene(validation.loader.dataset, validation.scored, validation.results, validation.config)
    return write_report(run_dir, metrics=metrics, gallery=_gallery(scene, _usual_page()))


@functools.cache
def _usual_page() -> ReportConfig:
    """The settings of a page that nobody changed, for its gallery."""
    return load_command_config("report", ReportConfig, check_report_rules, ["run=."])[0]


def _gallery(scene: Scene, config: ReportConfig) -> Gallery:
    from maskrcnn_train.reporting.pages.gallery import build_gallery

    return build_gallery(scene, worst=config.gallery.worst, best=config.gallery.best, size=config.gallery.size)


def _read_scene(folder: Path, config: ReportConfig) -> Scene:
    """The validation images of a run and what it detected there. Raises UserError for what is missing or faulty."""
    from maskrcnn_train.data.coco.results import read_results
    from maskrcnn_train.data.loading import evaluation_loader
    from maskrcnn_train.data.splits.choosing import with_choice
    from maskrcnn_train.data.splits.splitting import read_split
    from maskrcnn_train.labelling.folds import readable
    from maskrcnn_train.reporting.runs import read_json, read_yaml
    from maskrcnn_train.structures.classes import ClassMap

    for name in ("config.yaml", "classes.json", "predictions.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}")
    trained = config_from_plain(read_yaml(folder / "config.yaml"))
    classes = ClassMap.from_plain(read_json(folder / "classes.json"))
    data = with_choice(config.data, trained.data)
    split, _ = read_split(data, "val", classes, trained=trained.data, with_masks=trained.mask_head.enabled)
    dataset = evaluation_loader(trained, split, classes).dataset
    truth = dataset.ground_truth()
    if trained.data.on_bad_image == "skip":
        truth = readable(truth, split.images, max(trained.trainer.num_workers, 1), dataset.reader)
    return _scene(dataset, truth, read_results(folder / "predictions.json"), trained)


def _scene(
    dataset: CocoDataset, ground_truth: dict[str, Any], results: list[dict[str, Any]], trained: TrainConfig
) -> Scene:
    from maskrcnn_train.reporting.pages.gallery import Scene

    ids = dataset.split.index.image_ids[dataset.rows].tolist()
    return Scene(
        ground_truth=ground_truth,
        results=results,
        reader=dataset.reader,
        paths={image_id: Path(dataset.image_path(position)) for position, image_id in enumerate(ids)},
        kind=trained.kinds[-1],
        max_detections=trained.evaluation.max_detections[-1],
    )


def run(config: ReportConfig) -> None:
    path, reason = report(config)
    if reason:
        print(f"warning: the validation images could not be drawn again: {reason}", file=sys.stderr)
    print(f"report: {path}")


def main() -> None:
    run_command("report", ReportConfig, check_report_rules, run, HELP)


if __name__ == "__main__":
    main()
