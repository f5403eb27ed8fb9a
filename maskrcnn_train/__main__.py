"""`python -m maskrcnn_train` and the console script `maskrcnn-train`: train.

Settings and data are read before `train` is imported, and torch with it: a mistake is said within a second.
"""

from __future__ import annotations

from maskrcnn_train.cli import run_command
from maskrcnn_train.config import TrainConfig, check_train_rules

HELP = """
Train Mask R-CNN on your own COCO-format data.

  python -m maskrcnn_train                                            the built-in shapes data
  python -m maskrcnn_train data=roboflow data.root=DIR data.min_size=640 your data, exported as COCO JSON
  python -m maskrcnn_train -m backbone=resnet50,resnet101 rpn.nms.post_train=500,1000
"""


def run(config: TrainConfig) -> float:
    """Train; returns the main metric, which sweepers optimise."""
    from maskrcnn_train.data.splitting import read_splits

    splits = read_splits(config)

    from maskrcnn_train.train import train

    result = train(config, splits)
    return result.metrics["bbox/AP" if config.mask_head.name == "none" else "segm/AP"]


def main() -> None:
    run_command("train", TrainConfig, check_train_rules, run, HELP)


if __name__ == "__main__":
    main()
