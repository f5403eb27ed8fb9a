"""Annotations without any segmentation: boxes are trained, and masks are not tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_data import DataSet

from maskrcnn_train import load_config, train

LITTLE = ["trainer.max_steps=2", "trainer.num_workers=0", "trainer.precision=fp32", "evaluation.pictures=1"]
SMALL = ["roi_head.conv_dim=16", "roi_head.fc_dim=16", "rpn.nms.post_train=50", "rpn.nms.post_test=50"]


def test_boxes_train_with_mask_head_none_and_say_so_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(tmp_path / "cache"))
    data = DataSet(tmp_path / "data")
    spellings = [{}, {"segmentation": None}, {"segmentation": []}, {"segmentation": {}}]
    for content in data.content.values():
        for number, each in enumerate(content["annotations"]):
            del each["segmentation"]
            each |= spellings[number % len(spellings)]
    settings = [*data.write(), *LITTLE, *SMALL, f"output_dir={tmp_path}/run"]
    with pytest.raises(ValueError, match=r"48 of 48 annotations .* have no segmentation.* mask_head=none"):
        train(load_config(settings))
    metrics = train(load_config([*settings, "mask_head=none"])).metrics
    assert "bbox/AP" in metrics
    assert not [name for name in metrics if name.startswith("segm")]
