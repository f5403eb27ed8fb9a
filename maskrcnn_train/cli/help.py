"""The page of `--help` of every command."""

import re

from maskrcnn_train.settings.presets import conf_dir, groups

COMMON_KEYS = (
    ("data=coco data.root=DIR", "your data: auto looks what it is; coco, yolo, labelme, cvat, ..."),
    ("weights=coco", "start from: imagenet, coco, coco_v2, detectron2, file (weights.path)"),
    ("mask_head=none", "boxes only (Faster R-CNN)"),
    ("data.min_size=640", "shorter image side, network pixels"),
    ("trainer.batch_size=4", "images per device and step"),
    ("trainer.epochs=24", "length; also trainer.max_steps, trainer.max_minutes"),
    ("optimizer.lr=0.01", "learning rate for 16 images a step"),
    ("rpn.nms.post_train=2000", "proposals kept after NMS; also pre_train, pre_test, post_test"),
    ("roi_head.detections_per_image=300", "detections kept per image"),
    ("resume=auto", "continue the newest run of the same settings"),
)


SWEEPS = (
    "  -m            sweep: KEY=A,B runs a job for each; repeat the command with its output_dir=FOLDER to go on,",
    "                with sweep.retry_failed=true failed jobs too; hydra/launcher=joblib, submitit_local,",
    "                submitit_slurm or ray runs several at a time",
)


def help_page(name: str, text: str, *, sweeps: bool = True) -> str:
    """The page of `--help`: what the command does, its groups, its keys (of a training the commonest), examples."""
    values = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    included = (conf_dir() / "train.yaml").read_text(encoding="utf-8") if "\n  - train\n" in values else ""
    own = re.findall(r"^  - ([\w/]+):", values + included, flags=re.MULTILINE)
    lines = [text.strip(), *(["", "Groups (GROUP=OPTION):"] if own else [])]
    lines += [f"  {key:<13} {', '.join(options)}" for key, options in groups().items() if key.split("/")[0] in own]
    if name == "train":
        lines += ["", "Common keys (KEY=VALUE):", *(f"  {key:<34} {meaning}" for key, meaning in COMMON_KEYS)]
    else:
        body = values.split("\n\n", 1)[1].split("\nhydra:", 1)[0].strip("\n")
        lines += ["", "Keys and their defaults:", *(f"  {line}" for line in body.splitlines())]
    lines += ["", "  --cfg job     print the whole configuration"]
    return "\n".join([*lines, *(SWEEPS if sweeps else ())])
