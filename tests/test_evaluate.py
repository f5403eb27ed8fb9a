"""`evaluate`: the numbers of the training again, and those of results that another program made."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import logging
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import evaluated
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_coco import small_coco, write_images, write_json
from tiny import TINY, untrained_checkpoint

from maskrcnn_train import load_config
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.prediction.predictor import Predictor, load_checkpoint
from maskrcnn_train.prediction.scoring import on_split
from maskrcnn_train.prediction.validation import Validation
from maskrcnn_train.settings.command_rules import check_evaluate_rules
from maskrcnn_train.settings.command_schema import EvaluateConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.errors import UserError


def test_a_checkpoint_scores_as_at_the_end_of_its_training(run_dir: Path, tmp_path: Path) -> None:
    checkpoint = f"checkpoint={run_dir}/checkpoints/last.pt"
    metrics = evaluated(
        checkpoint, "evaluation.batch_size=8", "evaluation.bootstrap=100", folder=tmp_path / "e", study=True
    )
    expected = json.loads((run_dir / "metrics.json").read_text())
    assert metrics == pytest.approx(expected, abs=1e-6)
    assert json.loads((tmp_path / "e/predictions.json").read_text())
    study = json.loads((tmp_path / "e/study/study.json").read_text())
    assert study["segm"]["intervals"]["AP"]["value"] == pytest.approx(metrics["segm/AP"], abs=1e-9)
    assert (tmp_path / "e/study/bbox_confusion.png").is_file()
    rows = list(csv.DictReader((tmp_path / "e/classes.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == ["ellipse", "rectangle", "triangle", "star", "ring", "cross"]


def test_budgets_and_split_can_differ_from_the_training(run_dir: Path, tmp_path: Path) -> None:
    checkpoint = f"checkpoint={run_dir}/checkpoints/last.pt"
    evaluated(checkpoint, "roi_head.detections_per_image=3", "roi_head.score_threshold=0", folder=tmp_path / "few")
    found = json.loads((tmp_path / "few/predictions.json").read_text())
    assert len(found) == 3 * 4
    one_proposal = ("rpn.nms.post_test=1", "roi_head.score_threshold=0")
    evaluated(checkpoint, "split=test", *one_proposal, folder=tmp_path / "test")
    found = json.loads((tmp_path / "test/predictions.json").read_text())
    assert [result["image_id"] for result in found] == [1] * 6  # one detection of each class


def test_how_map_is_taken_comes_from_the_training_unless_given(
    run_dir: Path,
    tmp_path: Path,
) -> None:
    content = torch.load(run_dir / "checkpoints/last.pt", weights_only=True)
    checkpoint = tmp_path / "dense.pt"
    content["config"]["evaluation"] |= {"max_detections": [1, 7, 50], "size_limits": [8, 16]}
    torch.save(content, checkpoint)
    trained = load_checkpoint(checkpoint, device="cpu").config.evaluation
    assert (trained.max_detections, trained.size_limits) == ([1, 7, 50], [8, 16])
    metrics = evaluated(f"checkpoint={checkpoint}", folder=tmp_path / "e")
    assert {"bbox/AR7", "bbox/AR50"} <= metrics.keys()
    metrics = evaluated(f"checkpoint={checkpoint}", "evaluation.max_detections=[1,10,100]", folder=tmp_path / "f")
    assert {"bbox/AR10", "bbox/AR100"} <= metrics.keys()


def test_a_used_folder_and_different_images_are_refused_before_the_model_runs(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Validation, "evaluate", lambda *_: pytest.fail("the model ran"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"is not empty; choose another$"):
        evaluated(f"checkpoint={run_dir}/checkpoints/last.pt", folder=tmp_path)


def test_more_views_of_an_image_change_what_is_found(run_dir: Path, tmp_path: Path) -> None:
    checkpoint = f"checkpoint={run_dir}/checkpoints/last.pt"
    found = {}
    for name, views in {
        "plain": [],
        "same": ["tta.scales=[64]"],
        "flip": ["tta.flip=true"],
        "scales": ["tta.scales=[64,96]"],
    }.items():
        evaluated(checkpoint, *views, folder=tmp_path / name)
        found[name] = json.loads((tmp_path / name / "predictions.json").read_text())
    assert [each["segmentation"] for each in found["same"]] == [each["segmentation"] for each in found["plain"]]
    assert found["flip"] != found["plain"]
    assert found["scales"] != found["plain"]
    with pytest.raises(ValueError, match=r"evaluation\.loss cannot be computed with tta"):
        evaluated(checkpoint, "tta.flip=true", "evaluation.loss=true", folder=tmp_path / "no")


def random_results(truth: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """As another program would write them: near the objects, some of the wrong class, some anywhere."""
    results = []
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        for _ in range(2):
            box = [x + rng.uniform(-4, 4), y + rng.uniform(-4, 4), w * rng.uniform(0.7, 1.3), h * rng.uniform(0.7, 1.3)]
            mask = np.zeros((80, 100), np.uint8, order="F")
            mask[max(0, int(box[1])) : int(box[1] + box[3]), max(0, int(box[0])) : int(box[0] + box[2])] = 1
            code = coco_mask.encode(mask)
            category = annotation["category_id"] if rng.random() < 0.8 else 500
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "bbox": box,
                    "score": rng.random(),
                    "segmentation": {"size": [80, 100], "counts": code["counts"].decode()},
                }
            )
    return results


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[Path, Path]:
    """Ground truth and results with gaps in every id, ids from 0, polygons, crowd."""
    rng = random.Random(0)
    images = [{"id": 7 * n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in range(6)]
    annotations = []
    for number in range(30):
        x, y, w, h = rng.uniform(0, 60), rng.uniform(0, 40), rng.uniform(5, 40), rng.uniform(5, 40)
        annotations.append(
            {
                "id": 3 * number,
                "image_id": 7 * rng.randrange(6),
                "category_id": rng.choice([0, 17, 500]),
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
        )
    categories = [{"id": 0, "name": "a"}, {"id": 17, "name": "b"}, {"id": 500, "name": "c"}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(random_results(truth, rng)))
    return tmp_path / "truth.json", tmp_path / "results.json"


@pytest.mark.parametrize("backend", ["hotcoco", "faster_coco_eval", "pycocotools"])
def test_results_of_others_score_as_in_pycocotools(backend: str, foreign: tuple[Path, Path], tmp_path: Path) -> None:
    annotations, predictions = foreign
    metrics = evaluated(
        f"predictions={predictions}",
        f"annotations={annotations}",
        f"evaluation.backend={backend}",
        folder=tmp_path / "e",
    )
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    for kind in ("bbox", "segm"):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(annotations))
            for annotation in truth.dataset["annotations"]:
                annotation["id"] += 1  # pycocotools takes id 0 for "no match"
            truth.createIndex()
            results = json.loads(predictions.read_text())
            if kind == "segm":  # with a box beside the mask pycocotools takes the box's area as the mask's
                results = [{key: value for key, value in each.items() if key != "bbox"} for each in results]
            reference = COCOeval(truth, truth.loadRes(results), kind)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
        for name, expected in zip(names, reference.stats, strict=True):
            assert metrics[f"{kind}/{name}"] == pytest.approx(expected, abs=1e-9), (kind, name)


def test_the_ap_of_others_is_told_where_an_annotation_has_id_zero(
    foreign: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations, predictions = foreign
    files = [f"predictions={predictions}", f"annotations={annotations}"]
    metrics = evaluated(*files, folder=tmp_path / "e")
    line = next(line for line in capsys.readouterr().out.splitlines() if "an annotation has id 0" in line)
    for kind in ("bbox", "segm"):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(annotations))
            results = json.loads(predictions.read_text())
            if kind == "segm":
                results = [{key: value for key, value in each.items() if key != "bbox"} for each in results]
            reference = COCOeval(truth, truth.loadRes(results), kind)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
        assert reference.stats[0] < metrics[f"{kind}/AP"] - 0.001
        assert f"{kind} AP {100 * reference.stats[0]:.1f} there, {100 * metrics[f'{kind}/AP']:.1f} here" in line
    content = json.loads(annotations.read_text())
    content["annotations"][0]["id"] = 1000
    annotations.write_text(json.dumps(content))
    evaluated(*files, folder=tmp_path / "f")
    assert "id 0" not in capsys.readouterr().out


@pytest.mark.parametrize("value", ["no key", None, []])
@pytest.mark.parametrize(("missing", "left"), [("bbox", "segm"), ("segmentation", "bbox")])
def test_results_without_boxes_or_without_masks_are_scored_by_what_they_have(
    missing: str, left: str, value: object, foreign: tuple[Path, Path], tmp_path: Path
) -> None:
    annotations, predictions = foreign
    both = evaluated(f"predictions={predictions}", f"annotations={annotations}", folder=tmp_path / "both")
    results = json.loads(predictions.read_text())
    for result in results:
        result[missing] = value
        if value == "no key":
            del result[missing]
    predictions.write_text(json.dumps(results))
    metrics = evaluated(f"predictions={predictions}", f"annotations={annotations}", folder=tmp_path / "one")
    assert metrics == {key: value for key, value in both.items() if key.startswith(left)}


def test_masks_that_only_some_results_have_are_not_scored_and_counted(
    foreign: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotations, predictions = foreign
    results = json.loads(predictions.read_text())
    results[3]["segmentation"] = None
    predictions.write_text(json.dumps(results))
    metrics = evaluated(f"predictions={predictions}", f"annotations={annotations}", folder=tmp_path / "e")
    assert "bbox/AP" in metrics
    assert "segm/AP" not in metrics
    assert f"1 of {len(results)} results have no segmentation" in caplog.text


def test_masks_alone_cannot_be_scored_against_objects_without_masks(foreign: tuple[Path, Path], tmp_path: Path) -> None:
    annotations, predictions = foreign
    truth, results = (json.loads(path.read_text()) for path in foreign)
    for item in truth["annotations"]:
        del item["segmentation"]
    for item in results:
        del item["bbox"]
    annotations.write_text(json.dumps(truth))
    predictions.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"truth\.json has objects without masks, but .*results\.json has masks only"):
        evaluated(f"predictions={predictions}", f"annotations={annotations}", folder=tmp_path / "e")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 999}, "image_id 999, which the ground truth lacks"),
        ({"category_id": 3}, "category_id 3; the ground truth has 0, 17, 500"),
        ({"score": None}, "score"),
    ],
)
def test_results_of_another_data_set_are_one_clear_line(
    change: dict[str, float], said: str, foreign: tuple[Path, Path], tmp_path: Path
) -> None:
    annotations, predictions = foreign
    results = json.loads(predictions.read_text())
    results[4] |= change
    predictions.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=said):
        evaluated(f"predictions={predictions}", f"annotations={annotations}", folder=tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_one_of_checkpoint_and_predictions_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give exactly one of checkpoint="):
        evaluated(folder=tmp_path)
    with pytest.raises(ValueError, match="annotations is not set"):
        evaluated("predictions=x.json", folder=tmp_path)


@pytest.mark.parametrize("scored", ["results", "a checkpoint"])
def test_annotations_that_cannot_be_scored_are_told(
    scored: str,
    foreign: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("maskrcnn_train"), "propagate", True)
    annotations, predictions = foreign
    given = [f"predictions={predictions}", f"annotations={annotations}"]
    if scored == "a checkpoint":
        given = [f"checkpoint={untrained_checkpoint(tmp_path)}", "data=custom"]
        val = read_splits(load_config([*TINY, f"data.root={tmp_path}"])).val
        (annotations,) = val.index.sources
        given += [f"data.val.annotations={annotations}", f"data.val.images={val.images}"]
    truth = json.loads(annotations.read_text())
    truth["annotations"][0] |= {"bbox": [1, 1, -4, 4], "segmentation": []}
    annotations.write_text(json.dumps(truth))
    evaluated(*given, folder=tmp_path / "e")
    assert re.search(r" 1 +box has no area +left out +annotation ", caplog.text)


def test_settings_of_a_model_are_idle_on_results(foreign: tuple[Path, Path]) -> None:
    annotations, predictions = foreign
    given = [f"predictions={predictions}", f"annotations={annotations}", "tta.flip=true", "rpn.nms.post_test=5"]
    _, warnings = load_command_config("evaluate", EvaluateConfig, check_evaluate_rules, given)
    assert [warning.split(" has no effect")[0] for warning in warnings] == ["tta.flip", "rpn.nms.post_test"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.min_size=640"], "data.min_size is a setting of the training and has no effect here"),
        (["data=coco", "data.root=x", "data.max_size=640"], "data.max_size is a setting of the training"),
        (["data=coco", "data.root=x", "data.tile.size=64"], "data.tile.size is a setting of the training"),
        (["data.root=x"], "data.root needs data=OPTION beside it; choose one of auto, coco, "),
        (["data=coco", "data.rot=x"], "data.rot is not a setting; did you mean data.root?"),
        (["data=custom", "split=test"], "data.test.images is not set"),
    ],
)
def test_a_mistake_in_the_data_to_score_on_is_named(overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        evaluated("checkpoint=x.pt", *overrides, folder=tmp_path / "e")


def test_two_results_files_are_compared_image_by_image(foreign: tuple[Path, Path], tmp_path: Path) -> None:
    annotations, predictions = foreign
    results = json.loads(predictions.read_text())
    worse = tmp_path / "worse.json"
    worse.write_text(json.dumps([{**each, "bbox": [0, 0, 5, 5]} for each in results]))
    metrics = evaluated(f"compare=[{predictions},{worse}]", f"annotations={annotations}", folder=tmp_path / "e")
    comparison = json.loads((tmp_path / "e/comparison.json").read_text())
    by_name = {each["name"]: each for each in comparison["scores"]}
    assert by_name["bbox/AP"]["verdict"] == "a is better"
    assert by_name["bbox/AP"]["b"] == metrics["bbox/AP"]
    assert by_name["segm/AP"]["verdict"] == "not distinguishable"
    assert by_name["segm/AP"]["difference"] == {"value": 0, "low": 0, "high": 0}
    with pytest.raises(ValueError, match="two checkpoints or two results files"):
        evaluated(f"compare=[{predictions},x.pt]", f"annotations={annotations}", folder=tmp_path / "no")


def test_two_checkpoints_are_compared_on_the_same_split(run_dir: Path, tmp_path: Path) -> None:
    checkpoint = run_dir / "checkpoints/last.pt"
    evaluated(f"compare=[{checkpoint},{checkpoint}]", "evaluation.bootstrap=100", folder=tmp_path / "e")
    comparison = json.loads((tmp_path / "e/comparison.json").read_text())
    assert comparison["images"] == 4
    assert {each["verdict"] for each in comparison["scores"]} == {"not distinguishable"}


def test_models_that_could_not_read_the_same_images_are_not_compared(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draws of the images are paired by their number: of other images they would be of nothing."""
    checkpoint, scored = run_dir / "checkpoints/last.pt", []
    module = importlib.import_module("maskrcnn_train.evaluate")
    original = module.score_candidate

    def without_one(*arguments: Any) -> Any:
        scored.append(original(*arguments))
        truth = scored[-1].ground_truth
        return replace(scored[-1], ground_truth={**truth, "images": truth["images"][len(scored) - 1 :]})

    monkeypatch.setattr(module, "score_candidate", without_one)
    with pytest.raises(UserError, match=r"a is scored on 4 images .* b on 3"):
        evaluated(f"compare=[{checkpoint},{checkpoint}]", "evaluation.bootstrap=100", folder=tmp_path / "e")


def test_trainings_that_were_scored_in_different_ways_are_compared_by_one(
    run_dir: Path,
    tmp_path: Path,
) -> None:
    content = torch.load(run_dir / "checkpoints/last.pt", weights_only=True)
    content["config"]["evaluation"] |= {"max_detections": [1, 7, 50], "iou_thresholds": [0.3, 0.6]}
    torch.save(content, tmp_path / "dense.pt")
    compare = f"compare=[{run_dir}/checkpoints/last.pt,{tmp_path}/dense.pt]"
    evaluated(compare, "evaluation.bootstrap=100", folder=tmp_path / "e")
    scores = json.loads((tmp_path / "e/comparison.json").read_text())["scores"]
    assert {"bbox/AP50", "bbox/AP75", "bbox/AR100"} <= {each["name"] for each in scores}
    assert all(each["a"] == each["b"] for each in scores)  # the same weights
    said = next((tmp_path / "e").glob("*.log")).read_text()
    assert "scored by the default evaluation.max_detections=[1, 10, 100], evaluation.iou_thresholds=[0.5," in said
    given = ["evaluation.max_detections=[1,2,3]", "evaluation.iou_thresholds=[0.5,0.6]", "evaluation.bootstrap=100"]
    evaluated(compare, *given, folder=tmp_path / "given")
    scores = json.loads((tmp_path / "given/comparison.json").read_text())["scores"]
    assert "bbox/AR3" in {each["name"] for each in scores}
    assert "by the default" not in next((tmp_path / "given").glob("*.log")).read_text()


def test_a_choice_of_classes_does_not_give_images_of_train_to_other_parts(tmp_path: Path) -> None:
    coco = small_coco(30)
    coco["annotations"] = [each for each in coco["annotations"] if each["category_id"] == 7 or each["image_id"] % 3]
    given = ["data=custom", f"data.train.annotations={write_json(tmp_path / 'all.json', coco)}"]
    given += [f"data.train.images={write_images(tmp_path / 'images', coco)}", "data.split.fractions=[0.6,0.2,0.2]"]
    config = load_config(given)
    splits = read_splits(config)
    assert splits.test is not None
    model: Any = None  # it is not asked
    arguments = ["checkpoint=best.pt", "split=test", "data.classes=[door]", *given]
    command, _ = load_command_config("evaluate", EvaluateConfig, check_evaluate_rules, arguments)
    _, split = on_split(Predictor(model, splits.classes, config), command, num_workers=0)
    assert split.rows.tolist() == splits.test.rows.tolist()
    assert set(split.labels.tolist()) == {0, 1}
