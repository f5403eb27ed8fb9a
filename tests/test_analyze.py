"""`analyze` on a real checkpoint: its numbers are those that `evaluate` gives."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from commands import evaluated
from tiny import untrained_checkpoint

from maskrcnn_train.analysis.funnel import FOUND
from maskrcnn_train.analyze import analyze
from maskrcnn_train.evaluation.coco.metrics import IOU_THRESHOLDS, CocoResult, evaluate_coco
from maskrcnn_train.settings.command_rules import check_analyze_rules
from maskrcnn_train.settings.command_schema import AnalyzeConfig
from maskrcnn_train.settings.compose import load_command_config

LOW_IOU = 0.1  # from which such a model finds some objects


@pytest.fixture(scope="module")
def checkpoint(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few steps finds nothing; with objects forced upon its scores it finds at least something."""
    content = torch.load(run_dir / "checkpoints/last.pt", weights_only=True)
    for name in ("model", "ema"):
        bias = (content.get(name) or {}).get("roi_heads.box_predictor.cls_score.bias")
        if bias is not None:
            bias[0] -= 2
    path = tmp_path_factory.mktemp("forced") / "forced.pt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def analysis(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("analysis") / "a"
    config, _ = load_command_config(
        "analyze",
        AnalyzeConfig,
        check_analyze_rules,
        [
            f"checkpoint={checkpoint}",
            f"output_dir={folder}",
            "num_workers=0",
            f"funnel.iou={LOW_IOU}",
            "budgets.most=24",
            "budgets.timed_images=1",
            "budgets.pre_test=[20,200]",
            "budgets.post_test=[5,100]",
            "budgets.score_threshold=[0.0,0.1]",
        ],
    )
    return analyze(config), folder


def test_the_funnel_adds_up_and_agrees_with_the_evaluation(analysis, checkpoint: Path, tmp_path: Path) -> None:
    found, folder = analysis
    evaluated(f"checkpoint={checkpoint}", folder=tmp_path / "e")
    predictions = json.loads((tmp_path / "e/predictions.json").read_text())
    scored = score(ground_truth_of(checkpoint), predictions, [LOW_IOU])
    counts = found.funnel.counts()
    assert counts[FOUND] > 0
    for row, number in enumerate(scored.class_names):
        own = found.funnel.counts(class_name=scored.class_names[number])
        assert own.total() == scored.support[number]
        assert own[FOUND] == pytest.approx(scored.recall["segm"][0, row, 0, -1] * own.total())
    assert counts.total() == sum(scored.support.values())
    table = list(csv.DictReader((folder / "funnel.csv").read_text().splitlines()))
    for row in table:
        stages = [int(value) for key, value in row.items() if key not in ("by", "group", "objects")]
        assert sum(stages) == int(row["objects"])
    assert len(list(csv.DictReader((folder / "objects.csv").read_text().splitlines()))) == counts.total()


def test_objects_of_an_image_that_cannot_be_read_are_left_out_of_the_funnel(tmp_path: Path) -> None:
    checkpoint = untrained_checkpoint(tmp_path, "data.shapes.num_val=4", "data.on_bad_image=skip")
    found = {}
    for name in ("whole", "damaged"):
        given = [f"checkpoint={checkpoint}", f"output_dir={tmp_path / name}", "num_workers=0", "what=[funnel]"]
        config, _ = load_command_config("analyze", AnalyzeConfig, check_analyze_rules, given)
        funnel = analyze(config).funnel
        assert funnel is not None
        found[name] = funnel.objects
        next(tmp_path.glob("shapes/*/val/000001.jpg")).write_text("damaged")
    assert {each.image_id for each in found["whole"]} == {1, 2, 3, 4}
    assert found["damaged"] == [each for each in found["whole"] if each.image_id != 1]


def test_predicted_budgets_are_those_of_a_real_evaluation(analysis, checkpoint: Path, tmp_path: Path) -> None:
    found, _ = analysis
    assert len(found.outcomes) == 24
    assert len({outcome.detections for outcome in found.outcomes}) > 3
    from maskrcnn_train.analysis.pareto import halves

    for number in (0, 3, 11, 23):
        outcome = found.outcomes[number]
        overrides = [f"{key}={value}" for key, value in outcome.setting.overrides().items()]
        evaluated(f"checkpoint={checkpoint}", *overrides, folder=tmp_path / f"{number}")
        predictions = json.loads((tmp_path / f"{number}/predictions.json").read_text())
        assert len(predictions) == pytest.approx(outcome.detections * found.num_images)
        truth = ground_truth_of(checkpoint)
        tuning, _ = halves([image["id"] for image in truth["images"]], seed=0)
        expected = segm_ap(truth, predictions, tuning)
        assert outcome.tuned == pytest.approx(expected, abs=1e-6)


def ground_truth_of(checkpoint: Path) -> dict:
    from maskrcnn_train.data.loading import evaluation_loader
    from maskrcnn_train.data.splits.splitting import read_split
    from maskrcnn_train.prediction.predictor import load_checkpoint

    predictor = load_checkpoint(checkpoint, device="cpu")
    split, _ = read_split(predictor.config.data, "val", predictor.classes, with_masks=True)
    return evaluation_loader(predictor.config, split, predictor.classes).dataset.ground_truth()


def score(truth: dict, predictions: list, ious: Sequence[float] = IOU_THRESHOLDS) -> CocoResult:
    return evaluate_coco(truth, predictions, backend="pycocotools", max_detections=[1, 10, 100], iou_thresholds=ious)


def segm_ap(truth: dict, predictions: list, image_ids: set[int]) -> float:
    kept = {
        key: [each for each in truth[key] if each[name] in image_ids]
        for key, name in (("images", "id"), ("annotations", "image_id"))
    }
    own = [each for each in predictions if each["image_id"] in image_ids]
    return score({**truth, **kept}, own).metrics["segm/AP"]


def test_the_winners_are_files_that_evaluate_takes(analysis, checkpoint: Path, tmp_path: Path) -> None:
    found, folder = analysis
    from maskrcnn_train.settings.command_rules import check_evaluate_rules
    from maskrcnn_train.settings.command_schema import EvaluateConfig

    for name in ("best", "fast"):
        config, _ = load_command_config(
            "evaluate",
            EvaluateConfig,
            check_evaluate_rules,
            [f"checkpoint={checkpoint}", f"+budgets={name}"],
            str(folder),
        )
        setting = found.winners[name].setting
        assert config.rpn.nms.post_test == setting.post_test
        assert config.roi_head.score_threshold == setting.score_threshold
        assert config.mask_head.threshold == setting.mask_threshold


def test_proposals_and_anchors_are_reported_for_every_group(analysis) -> None:
    found, folder = analysis
    recalls = {(each.by, each.group, each.count): each for each in found.recalls}
    assert {("all", "all"), ("size", "small"), ("class", "star")} <= {(by, group) for by, group, _ in recalls}
    for (by, group, count), each in recalls.items():
        assert 0 <= each.average_recall <= each.recall50 <= 1
        assert each.recall50 >= recalls[by, group, 10].recall50 - 1e-9, count
    shares = {(each.upper, each.lower): each for each in found.shares}
    assert found.trained_iou in shares
    for each in shares.values():
        assert each.positive + each.ignored + each.negative == pytest.approx(1)
        assert each.per_object >= 1
    assert shares[0.5, 0.3].per_object > shares[0.8, 0.3].per_object
    assert shares[0.5, 0.3].only_best <= shares[0.8, 0.3].only_best
    assert shares[0.5, 0.2].negative <= shares[0.5, 0.4].negative
    for name in ("funnel", "proposal_recall", "budgets"):
        assert (folder / f"{name}.png").stat().st_size > 5000


def test_parts_can_be_left_out_and_mistakes_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    def run(*overrides: str):
        config, _ = load_command_config(
            "analyze", AnalyzeConfig, check_analyze_rules, [f"checkpoint={checkpoint}", "num_workers=0", *overrides]
        )
        return analyze(config)

    found = run("what=[proposals]", "max_images=2", f"output_dir={tmp_path}/p")
    assert found.num_images == 2
    assert found.funnel is None
    assert found.outcomes is None
    with pytest.raises(ValueError, match=r"what=funel is not an option; choose one of funnel, proposals, budgets"):
        run("what=[funel]")
    with pytest.raises(ValueError, match=r"proposals\.counts=\[30, 10\] must be ascending"):
        run("proposals.counts=[30,10]")
