"""`predict` on images from disk to pictures and results, against the model alone on the same images, decoded already.

python benchmarks/predict_speed.py [--rounds 3] [--checkpoint RUN/checkpoints/best.pt] [--score-threshold 0.5]

Without a checkpoint: R50-FPN with random weights, 800 px, its 30 best detections of each image drawn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import asdict
from itertools import count
from pathlib import Path

import torch
from sides import data_root, in_turn, machine

from maskrcnn_train import build_model, load_checkpoint, load_config
from maskrcnn_train.engine.checkpoint import FORMAT, save_plain
from maskrcnn_train.predict import predict_images
from maskrcnn_train.prediction.pictures import prepare
from maskrcnn_train.prediction.predictor import detect_batch
from maskrcnn_train.settings.command_rules import check_predict_rules
from maskrcnn_train.settings.command_schema import PredictConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.structures.classes import ClassMap

NUM_IMAGES = 32


def random_checkpoint(folder: Path) -> Path:
    """R50-FPN as it comes, ten classes."""
    torch.manual_seed(0)
    config = load_config(["roi_head.score_threshold=0", "roi_head.detections_per_image=30"])
    classes = ClassMap([f"class {label}" for label in range(1, 11)], list(range(1, 11)))
    model = build_model(config, classes.num_classes)
    path = folder / "random.pt"
    save_plain(
        {"format": FORMAT, "config": asdict(config), "classes": classes.to_plain(), "model": model.state_dict()}, path
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--score-threshold", type=float)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = options.checkpoint or random_checkpoint(folder)
        threshold = options.score_threshold or (0.5 if options.checkpoint else 0.0)
        listing = folder / "images.txt"
        images = sorted((data_root() / "valid").glob("*.jpg"))[:NUM_IMAGES]
        listing.write_text("\n".join(str(path.resolve()) for path in images))
        predictor = load_checkpoint(checkpoint)
        prepared = [prepare(predictor.config, path) for path in images]
        numbers = count()

        def command() -> int:
            arguments = [f"checkpoint={checkpoint}", f"images={listing}", f"score_threshold={threshold}"]
            arguments.append(f"output_dir={folder / str(next(numbers))}")
            arguments.append(f"roi_head.score_threshold={predictor.config.roi_head.score_threshold}")  # as the model's
            config, _ = load_command_config("predict", PredictConfig, check_predict_rules, arguments)
            return len(predict_images(config).results)

        def model_alone() -> int:
            return sum(len(detect_batch(predictor, [each], score_threshold=threshold)[0]) for each in prepared)

        found, alone = command(), model_alone()
        assert found == alone
        print(f"{len(images)} images, {found} detections")
        seconds = in_turn({"predict": command, "model": model_alone}, options.rounds, warmup=0)
        ratios = [whole / model for whole, model in zip(seconds["predict"], seconds["model"], strict=True)]
        for side, times in seconds.items():
            print(f"{side:8} {statistics.median(times):7.2f} s")
        print(f"predict takes {statistics.median(ratios):.3f} times the model ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
