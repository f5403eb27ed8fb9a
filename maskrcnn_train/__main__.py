"""`python -m maskrcnn_train` and the console script `maskrcnn-train`: train.

Settings, data and the place of initial weights are looked at before `train`, and torch with it, is imported: a mistake
is said within a second.
"""

import sys
from pathlib import Path

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.engine.run_folder import find_run
from maskrcnn_train.settings.rules import check_train_rules
from maskrcnn_train.settings.schema import TrainConfig

HELP = """
Train Mask R-CNN on your own COCO-format data.

  python -m maskrcnn_train                                                  the built-in shapes data
  python -m maskrcnn_train data=roboflow data.root=DIR data.min_size=640    your data, exported as COCO JSON
  python -m maskrcnn_train -m backbone=resnet50,resnet101 rpn.nms.post_train=500,1000
"""

ALONE = """No settings: this trains a ResNet-50 from random weights on 1000 built-in pictures of shapes, for 12 epochs.
That takes minutes on a GPU, hours on a processor. Ctrl-C saves a checkpoint and stops. Your own data: see --help."""


def run(config: TrainConfig) -> float:
    """Train; returns the main metric, which sweepers optimise."""
    if config.replay is not None:
        from maskrcnn_train.engine.replay import replay

        print(replay(Path(config.replay)))
        return float("nan")
    from maskrcnn_train.data.splits.splitting import read_splits
    from maskrcnn_train.model.weights.published import find_weights

    if config.resume not in (None, "auto"):
        find_run(config, Path("runs/train"))  # a wrong path stops here
    fresh, local = config.resume is None, config.weights.source in ("file", "detectron2")
    weights = find_weights(config) if fresh and local else None  # and so it does here
    splits = read_splits(config)
    if fresh and not local:  # which may download: after the data is known to be sound
        weights = find_weights(config)

    from maskrcnn_train.train import train

    return train(config, splits, weights).metrics[f"{config.kinds[-1]}/AP"]


def main() -> None:
    if not sys.argv[1:]:
        print(ALONE, file=sys.stderr)
    run_command("train", TrainConfig, check_train_rules, run, HELP)


if __name__ == "__main__":
    main()
