"""`python -m maskrcnn_train.export`: a checkpoint as a file for other programs, checked against the model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.files import write_json
from maskrcnn_train.prediction.memory import BUDGETS, advising_on_memory
from maskrcnn_train.settings.command_rules import check_export_rules
from maskrcnn_train.settings.command_schema import ExportConfig, ToleranceConfig
from maskrcnn_train.settings.errors import UserError

if TYPE_CHECKING:
    from maskrcnn_train.data.channels import AnyImage
    from maskrcnn_train.data.dataset import CocoDataset
    from maskrcnn_train.exporting.comparing import Differences
    from maskrcnn_train.exporting.files import Runtime
    from maskrcnn_train.prediction.predictor import Predictor
    from maskrcnn_train.structures.detections import Detections
    from maskrcnn_train.structures.tiles import Window

HELP = """
Write a checkpoint as ONNX, TorchScript, safetensors or a description in JSON, and check the file against the model.

  python -m maskrcnn_train.export checkpoint=RUN/checkpoints/best.pt format=onnx
  python -m maskrcnn_train.export checkpoint=RUN/checkpoints/best.pt format=onnx images=FOLDER
  python -m maskrcnn_train.export checkpoint=RUN/checkpoints/best.pt format=torchscript paste_masks=true evaluate=true
"""
FILES = {
    "onnx": "model.onnx",
    "torchscript": "model.torchscript",
    "safetensors": "model.safetensors",
    "coco_metadata": "metadata.json",
}
logger = logging.getLogger("maskrcnn_train")


@dataclass
class Export:
    """What a call wrote. differences: None where nothing was compared; metrics: of the `model` and of the `file`."""

    path: Path
    differences: Differences | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    too_large: list[str] = field(default_factory=list)


def export(config: ExportConfig) -> Export:
    """Write and check as configured. Raises UserError for the person's mistakes."""
    if config.format == "onnx" and not (find_spec("onnx") and find_spec("onnxruntime")):
        raise UserError("format=onnx needs the packages onnx and onnxruntime; pip install 'maskrcnn-train[export]'")
    from maskrcnn_train.data.loading import evaluation_loader
    from maskrcnn_train.data.sources import find_images
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.prediction.predictor import load_checkpoint
    from maskrcnn_train.prediction.scoring import on_split
    from maskrcnn_train.reporting.terminal.progress import setup_logging

    predictor = load_checkpoint(config.checkpoint, device="cpu", precision="fp32", settings=config)
    is_graph = config.format in ("onnx", "torchscript")
    evaluated = is_graph and (config.evaluate or config.data is not None)
    dataset, paths = None, []
    if is_graph and config.num_images and config.images is not None:
        paths = [each.path for each in find_images(config.images)][: config.num_images]
    if evaluated or (is_graph and config.num_images and config.images is None):
        # its faults are better known before anything is written
        predictor, split = on_split(predictor, config, num_workers=0)
        dataset = evaluation_loader(predictor.config, split, predictor.classes).dataset
        paths = paths or [Path(dataset.image_path(each)) for each in range(min(len(dataset.rows), config.num_images))]
    folder = open_run_folder(config.output_dir, "export")
    setup_logging(folder / "export.log")
    done = Export(folder / FILES[config.format])
    runtime = write_model(predictor, done.path, config)
    logger.info("written: %s (%.1f MB)", done.path, done.path.stat().st_size / 1e6)
    if runtime is not None and paths:
        done.differences = check_runtime(runtime, predictor, paths, config)
        done.too_large = _too_large(done.differences, config.tolerance)
    if runtime is not None and evaluated and dataset is not None:
        done.metrics = evaluate_runtime(runtime, predictor, dataset)
    report = {"differences": done.differences and asdict(done.differences), "metrics": done.metrics}
    write_json(folder / "check.json", report, indent=2)
    return done


def write_model(predictor: Predictor, path: Path, config: ExportConfig) -> Runtime | None:
    """Write the file; returns what runs it, None for a file that does not run by itself."""
    from maskrcnn_train.exporting import files
    from maskrcnn_train.exporting.detector import TraceableDetector
    from maskrcnn_train.exporting.metadata import describe_model
    from maskrcnn_train.model.weights.files import save_safetensors

    about = describe_model(predictor.config, predictor.classes)
    if config.format == "coco_metadata":
        write_json(path, about, indent=2)
        return None
    if config.format == "safetensors":
        save_safetensors(predictor.model, path, config=asdict(predictor.config), classes=predictor.classes.to_plain())
        _check_weights(predictor, path)
        return None
    with files.without_exporter_noise():
        pasting, bits = predictor.pasting if config.paste_masks else None, predictor.config.data.bits
        detector = TraceableDetector(predictor.model, pasting, bits=bits)
    if config.format == "torchscript":
        files.write_torchscript(detector, path, about)
        return files.open_torchscript(path)
    files.write_onnx(detector, path, about, predictor.config, config.opset)
    return files.open_onnx(path)


def _check_weights(predictor: Predictor, path: Path) -> None:
    import torch

    from maskrcnn_train.model.weights.files import read_weights

    stored, state = read_weights(path, "file"), predictor.model.state_dict()
    assert stored.layers.keys() == state.keys()
    assert all(torch.equal(tensor.cpu(), stored.layers[name]) for name, tensor in state.items())
    logger.info("read back: %d layers, all equal; use it with weights=file weights.path=%s", len(state), path)


# ---------------------------------------------------------------- checking


def check_runtime(runtime: Runtime, predictor: Predictor, paths: list[Path], config: ExportConfig) -> Differences:
    """The largest differences between the file and the model on the images, of tiles on the middle one of each.

    Raises ImageError.
    """
    from maskrcnn_train.exporting.comparing import Differences

    total = Differences()
    for _, image in _readable(predictor, [(path, None) for path in paths]):
        windows = _windows(predictor, image)
        part = image.crop(windows[len(windows) // 2])
        total.add(*_both_sides(runtime, predictor, part), predictor.config, config.tolerance.scores)
    masks = "" if total.mask_iou is None else f", masks' IoU {total.mask_iou:.6f}"
    logger.info(
        "checked on %d images with %d detections; largest differences: boxes %.2g px, %.2g of their size, "
        "scores %.2g%s; %d detections on one side only",
        *(total.images, total.detections, total.pixels, total.boxes, total.scores, masks, total.missing),
    )
    return total


def _readable(
    predictor: Predictor, files: Iterable[tuple[Path, tuple[int, int] | None]]
) -> Iterator[tuple[int, AnyImage]]:
    """Position and image of each file, of the size (height, width) that is known of it. Those that cannot be read are
    left out where `data.on_bad_image` says skip; else raises ImageError. Raises UserError where all are."""
    from maskrcnn_train.data.images import ImageError
    from maskrcnn_train.data.pixels import build_reader

    data = predictor.config.data
    reader, is_any = build_reader(data), False
    for position, (path, size) in enumerate(files):
        try:
            yield position, reader.read(path, expected=size)
            is_any = True
        except ImageError as error:
            if data.on_bad_image != "skip":
                raise
            logger.warning("skipped: %s", error)
    if not is_any:
        raise UserError("none of the images could be read: the file is written, but not checked; give others: images=")


def _windows(predictor: Predictor, image: AnyImage) -> list[Window]:
    """What the model sees of an image, one after another: its tiles, or all of it."""
    height, width = image.height, image.width
    return [(0, 0, width, height)] if predictor.tiles is None else predictor.tiles.windows((height, width))


def _both_sides(runtime: Runtime, predictor: Predictor, image: AnyImage) -> tuple[Detections, Detections]:
    """Detections of the model and of the file on one image, or tile."""
    import numpy as np

    from maskrcnn_train.prediction.pictures import resize
    from maskrcnn_train.prediction.predictor import detect_batch

    (ours,) = detect_batch(predictor, [resize(predictor.config, image)], score_threshold=0.0)
    return ours, replace(runtime(np.asarray(image)), classes=predictor.classes, pasting=predictor.pasting)


def _too_large(differences: Differences, limits: ToleranceConfig) -> list[str]:
    faults = []
    if differences.boxes > limits.boxes:
        faults.append(f"boxes {differences.boxes:.2g} (tolerance.boxes={limits.boxes:g})")
    if differences.scores > limits.scores:
        faults.append(f"scores {differences.scores:.2g} (tolerance.scores={limits.scores:g})")
    if differences.mask_iou is not None and differences.mask_iou < limits.mask_iou:
        faults.append(f"mask IoU {differences.mask_iou:.5f} (tolerance.mask_iou={limits.mask_iou:g})")
    if differences.missing:
        faults.append(f"{differences.missing} detections on one side only")
    return faults


def evaluate_runtime(runtime: Runtime, predictor: Predictor, dataset: CocoDataset) -> dict[str, dict[str, float]]:
    """COCO metrics of the `model` and of the `file` on the same images, each in tiles if the model is one of tiles."""
    from maskrcnn_train.evaluation.coco.ground_truth import of_images
    from maskrcnn_train.evaluation.coco.metrics import score_coco
    from maskrcnn_train.prediction.tiling import merge_tiles

    truth, trained = dataset.ground_truth(), predictor.config
    results: dict[str, list[dict[str, Any]]] = {"model": [], "file": []}
    sizes = [(about["height"], about["width"]) for about in truth["images"]]
    paths = [Path(dataset.image_path(position)) for position in range(len(sizes))]
    seen = []
    for position, image in _readable(predictor, zip(paths, sizes, strict=True)):
        image_id = truth["images"][position]["id"]
        seen.append(image_id)
        windows = _windows(predictor, image)
        parts = [_both_sides(runtime, predictor, image.crop(window)) for window in windows]
        for own, found in zip(results.values(), zip(*parts, strict=True), strict=True):
            whole = found[0] if len(windows) == 1 else merge_tiles(windows, found, (image.height, image.width))
            own += whole.to_coco(image_id)
    truth, metrics = of_images(truth, set(seen)), {}
    for side, own in results.items():
        metrics[side] = score_coco(truth, own, trained.evaluation, kinds=trained.kinds).metrics
        scores = "  ".join(f"{kind} {100 * metrics[side][f'{kind}/AP']:.2f}" for kind in trained.kinds)
        logger.info("AP x 100 on %d images, %s: %s", len(truth["images"]), side, scores)
    return metrics


def run(config: ExportConfig) -> None:
    with advising_on_memory(f"lower {BUDGETS}, or check with smaller images: images=FOLDER"):
        done = export(config)
    if done.too_large:
        logger.error("the file differs too much from the model: %s", "; ".join(done.too_large))
        sys.exit(1)


def main() -> None:
    run_command("export", ExportConfig, check_export_rules, run, HELP)


if __name__ == "__main__":
    main()
