"""A run of an earlier version, kept in `old_run/`: its checkpoint still loads, predicts and resumes.

Two steps on the built-in shapes with the smallest backbone of timm; `expected.json` holds what that version detected
on one image, and the losses and metrics of the two steps after them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from maskrcnn_train import load_checkpoint, load_config, predict, train
from maskrcnn_train.reporting.tensorboard import read_metrics

OLD_RUN = Path(__file__).parent / "old_run"
EXPECTED = json.loads((OLD_RUN / "expected.json").read_text())


def test_it_detects_what_it_did() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    (found,) = predict(load_checkpoint(OLD_RUN / "checkpoints/last.pt"), [image], score_threshold=0)
    results = found.to_coco(1)
    for key in ("category_id", "score", "bbox"):
        before = [each[key] for each in EXPECTED["detections"]]
        np.testing.assert_allclose([each[key] for each in results], before, rtol=1e-3, atol=1e-3)
    assert all(each["segmentation"]["size"] == [50, 70] for each in results)


def test_it_goes_on_as_it_would_have(tmp_path: Path) -> None:
    run = shutil.copytree(OLD_RUN, tmp_path / "run")
    given = [f"resume={run}", f"data.root={tmp_path / 'data'}", "trainer.max_steps=4"]
    metrics = train(load_config(given)).metrics
    taken = [values for values in read_metrics(run / "metrics.jsonl") if "loss/total" in values]
    assert [values["step"] for values in taken] == [3, 4]
    for values, before in zip(taken, EXPECTED["losses"][-2:], strict=True):
        assert {key: values[key] for key in before} == pytest.approx(before, rel=1e-3)
    assert set(metrics) == set(EXPECTED["metrics"])
    assert metrics == pytest.approx(EXPECTED["metrics"], abs=1e-3)
