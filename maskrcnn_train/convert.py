"""`python -m maskrcnn_train.convert`: writes a data set in another format of labels."""

import logging
from pathlib import Path

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.data.formats.labelled import DataSet
from maskrcnn_train.data.formats.writing import labelled_images, tell_left_out, write_labels
from maskrcnn_train.data.splits.splitting import read_parts
from maskrcnn_train.settings.command_rules import check_convert_rules
from maskrcnn_train.settings.command_schema import ConvertConfig

HELP = """
Write a data set in another format of labels, with its images.

  python -m maskrcnn_train.convert data=auto data.root=DIR format=yolo
  python -m maskrcnn_train.convert data=cvat data.root=DIR format=coco tolerance=0
  python -m maskrcnn_train.convert data=roboflow data.root=DIR format=labelme "data.classes=[door,window]"
"""
logger = logging.getLogger("maskrcnn_train")


def convert(config: ConvertConfig) -> Path:
    """Convert as configured; returns the folder. Raises UserError for faults of the data."""
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.reporting.terminal.progress import setup_logging
    from maskrcnn_train.reporting.terminal.tables import unused_table

    parts, classes, notes = read_parts(config.data, with_images=config.copy_images)
    folder = open_run_folder(config.output_dir, "convert")
    setup_logging(folder / "convert.log")
    for note in notes:
        logger.info("%s", note)
    if unused := unused_table({name: part.skipped for name, part in parts.items()}):
        logger.info("%s", unused)
    images = {
        name: labelled_images(part.index, part.rows, part.labels, classes, part.images) for name, part in parts.items()
    }
    data = DataSet(classes.name_of_id, images, copies=config.copy_images)
    tell_left_out(write_labels(folder, config.format, data, tolerance=config.tolerance))
    logger.info("written as %s to %s: %s", config.format, folder, ", ".join(f"{n} {len(p)}" for n, p in parts.items()))
    return folder


def run(config: ConvertConfig) -> None:
    convert(config)


def main() -> None:
    run_command("convert", ConvertConfig, check_convert_rules, run, HELP)


if __name__ == "__main__":
    main()
