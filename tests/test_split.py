"""`split`: parts that are complete, disjoint, alike, and hold everything that the JSON held."""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_coco import annotation, roboflow, small_coco, write_images

from maskrcnn_train.data.splits.grouping import group_by_field
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.engine.run_folder import find_run
from maskrcnn_train.settings.command_rules import check_split_rules
from maskrcnn_train.settings.command_schema import SplitCommandConfig
from maskrcnn_train.settings.compose import load_command_config, load_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import override_value
from maskrcnn_train.split import SplitResult, split

Coco = dict[str, Any]


def scene(num_images: int = 60) -> Coco:
    """Images in random order with three classes, one of them rare, and with everything that tools add."""
    rng = random.Random(0)
    images, annotations = [], []
    for number in rng.sample(range(1000), num_images):
        video = number % 7
        images.append(
            {
                "id": number,
                "file_name": f"v{video}_frame{number}.png",
                "width": 60,
                "height": 40,
                "video": {"id": video},
                "big": 2**70 + number,
                "score": 0.1 + number,
            }
        )
        for _ in range(rng.choice([0, 1, 2, 3, 12])):
            category = rng.choices([5, 2, 9], [70, 27, 3])[0]
            identity = 10_000 - len(annotations)
            annotations.append(
                annotation(identity, number, category, rng.randrange(40), rng.randrange(20), 8, attributes={"é": None})
            )
    rng.shuffle(annotations)
    annotations[4]["area"] = float("nan")
    categories = [{"id": number, "name": f"c{number}", "color": "#fff"} for number in (5, 2, 9, 11)]
    return {
        "info": {"year": 2020},
        "images": images,
        "licenses": [{"id": 1, "url": "x"}],
        "annotations": annotations,
        "categories": categories,
        "tool": {"version": [1, 2]},
    }


def configured(*overrides: str) -> SplitCommandConfig:
    return load_command_config("split", SplitCommandConfig, check_split_rules, list(overrides))[0]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "all.json"
    path.write_text(json.dumps(scene()))
    return path


def cut(source: Path, *overrides: str, to: str = "out") -> SplitResult:
    return split(configured(f"annotations={source}", f"output_dir={source.parent / to}", *overrides))


def contents(result: SplitResult) -> dict[str, Coco]:
    return {name: json.loads(path.read_text()) for name, path in result.files.items()}


def as_text(items: list[Coco]) -> list[str]:
    """For comparing: a NaN is not equal to itself."""
    return [json.dumps(item) for item in items]


def test_the_parts_hold_everything_once_and_in_order(source: Path) -> None:
    whole, parts = scene(), contents(cut(source))
    assert [len(part["images"]) for part in parts.values()] == [48, 6, 6]
    for key in ("images", "annotations"):
        assert sorted(as_text(whole[key])) == sorted(text for part in parts.values() for text in as_text(part[key]))
    for part in parts.values():
        assert list(part) == list(whole)
        assert {key: part[key] for key in part if key not in ("images", "annotations")} == {
            key: whole[key] for key in whole if key not in ("images", "annotations")
        }
        ids = {image["id"] for image in part["images"]}
        assert as_text(part["images"]) == as_text([each for each in whole["images"] if each["id"] in ids])
        assert as_text(part["annotations"]) == as_text(
            [each for each in whole["annotations"] if each["image_id"] in ids]
        )


def test_the_parts_train(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(tmp_path / "cache"))
    result, folder = cut(source), write_images(tmp_path / "images", scene())
    paths = [f"data.{name}.annotations={file}" for name, file in result.files.items()]
    paths += [f"data.{name}.images={folder}" for name in result.files]
    splits = read_splits(load_config(["data=custom", *paths]))
    assert splits.test is not None
    assert len(splits.train) + len(splits.val) + len(splits.test) == 60


def test_the_command_that_trains_on_the_parts_holds_any_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "o'ne (1), two"
    folder.mkdir()
    (folder / "all.json").write_text(json.dumps(scene()))
    places = {"annotations": folder / "all.json", "images": folder, "output_dir": folder / "parts"}
    result = split(configured(*(f"{key}={override_value(str(path))}" for key, path in places.items())))
    said = capsys.readouterr().out.replace("\n", " ").partition("train on them: ")[2]
    config = load_config(shlex.split(said)[:7])
    assert (config.data.train.images, config.data.val.annotations) == (str(folder), str(result.files["val"]))


def test_what_another_format_leaves_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = scene(6)
    content["annotations"] = [
        annotation(number, image["id"], 5, 5, 5, 8) for number, image in enumerate(content["images"], start=1)
    ]
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1] |= {"bbox": [5, 5, 0, 0], "segmentation": []}
    (tmp_path / "all.json").write_text(json.dumps(content))
    cut(
        tmp_path / "all.json",
        f"images={write_images(tmp_path / 'images', content)}",
        "format=yolo",
        "fractions=[0.5,0.5]",
    )
    said = capsys.readouterr().out
    assert "1 crowd regions were left out" in said
    assert "box" in said.partition("left out")[0]


def test_a_part_without_images_is_told(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = cut(source, "folds=8", "group_by=video").parts
    (empty,) = [name for name, rows in parts.items() if len(rows) == 0]
    assert f"{empty} without images: the 7 groups that stay together are too few" in capsys.readouterr().out


def test_seeds_decide(source: Path) -> None:
    first, again, other = (cut(source, f"seed={seed}", to=f"{run}") for run, seed in enumerate((1, 1, 2)))
    assert [part.tolist() for part in first.parts.values()] == [part.tolist() for part in again.parts.values()]
    assert first.parts["val"].tolist() != other.parts["val"].tolist()


def test_classes_are_shared_out_better_than_by_chance(source: Path) -> None:
    whole = scene()
    rows = {image["id"]: row for row, image in enumerate(whole["images"])}
    objects = np.zeros((60, 12))
    for each in whole["annotations"]:
        objects[rows[each["image_id"]], each["category_id"]] += 1

    def error(part: Any) -> float:
        return float(np.abs(objects[part].sum(axis=0)[[2, 5]] / objects.sum(axis=0)[[2, 5]] - 0.25).max())

    ours = [error(cut(source, "fractions=[0.75,0.25]", f"seed={seed}", to=f"{seed}").parts["val"]) for seed in range(4)]
    chance = [error(np.random.default_rng(seed).permutation(60)[:15]) for seed in range(50)]
    assert max(ours) < np.quantile(chance, 0.2)


def test_settings_that_change_nothing_are_told() -> None:
    given = ["annotations=a.json", "folds=4", "fractions=[0.5,0.5]", "duplicate_distance=4"]
    _, warnings = load_command_config("split", SplitCommandConfig, check_split_rules, given)
    assert warnings == [
        "fractions has no effect with folds=4",
        "duplicate_distance has no effect with duplicates=false",
    ]
    assert (
        load_command_config("split", SplitCommandConfig, check_split_rules, ["annotations=a.json", "folds=4"])[1] == []
    )


def test_folds_show_every_image_once_as_val(source: Path) -> None:
    parts = contents(cut(source, "folds=4"))
    assert set(parts) == {f"fold_{number}/{name}" for number in range(4) for name in ("train", "val")}
    ids = sorted(image["id"] for image in scene()["images"])
    assert sorted(image["id"] for name, part in parts.items() if "val" in name for image in part["images"]) == ids
    for number in range(4):
        both = [parts[f"fold_{number}/{name}"]["images"] for name in ("train", "val")]
        assert len(both[1]) == 15
        assert sorted(image["id"] for images in both for image in images) == ids


@pytest.mark.parametrize("group", ["group_by=video.id", "group_pattern='^(v\\d)_'"])
def test_groups_stay_together(source: Path, group: str) -> None:
    videos = [{image["video"]["id"] for image in part["images"]} for part in contents(cut(source, group)).values()]
    assert sum(map(len, videos)) == len(set.union(*videos)) == 7
    assert all(videos)


def test_values_that_are_equal_in_json_are_one_group() -> None:
    values = [1, 1.0, "1", True, 2, None, {"a": 1}, {"a": 1}, 1e400, -1e400]
    groups = group_by_field([{"clip": value} for value in values], "clip")
    assert groups.tolist() == [0, 0, 2, 3, 4, 5, 6, 6, 8, 9]


def test_pictures_that_look_alike_stay_together(source: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", scene())
    images = scene()["images"]
    for first, second in ((0, 30), (30, 59), (7, 8)):
        (folder / images[second]["file_name"]).write_bytes((folder / images[first]["file_name"]).read_bytes())
    for seed in range(3):
        looks = ["duplicates=true", f"images={folder}", "workers=1"]
        result = cut(source, "fractions=[0.5,0.5]", *looks, f"seed={seed}", to=f"{seed}")
        part_of = {row: name for name, rows in result.parts.items() for row in rows.tolist()}
        assert part_of[0] == part_of[30] == part_of[59]
        assert part_of[7] == part_of[8]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["fractions=[0.8,0.1]"], "add up to 1"),
        (["fractions=[0.5,0.2,0.2,0.1]"], "two or three"),
        (["duplicates=true"], "images is not set"),
        (["duplicates=true", "images=nowhere"], "nowhere does not exist; set images"),
        (["duplicates=true", f"images={__file__}"], "is a file, not a folder; set images"),
        (["group_pattern='('"], "regular expression"),
        (["group_pattern=xyz"], "matches no file name; the first is v"),
        (["group_by=clip"], "no image has this field; images have big, file_name"),
        (["folds=61"], "60 images; they cannot be cut into 61"),
    ],
)
def test_a_mistake_is_one_line(source: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cut(source, *overrides)


def test_the_command_prints_a_table_and_where_the_files_are(source: Path) -> None:
    command = [sys.executable, "-m", "maskrcnn_train.split", f"annotations={source}", f"output_dir={source.parent}/out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "c5" in done.stdout
    assert "data.val.annotations=" in done.stdout
    missing = subprocess.run([*command[:3], "annotations=nowhere.json"], capture_output=True, text=True)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("error: nowhere.json does not exist; set annotations")


def test_only_the_chosen_classes_need_alike_shares(tmp_path: Path) -> None:
    """Of two classes only the rare one counts: its four images are halved, and the files keep both."""
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 9, "height": 9} for number in range(40)]
    annotations = [
        {"id": number, "image_id": number, "category_id": 1 + (number < 4), "bbox": [1, 1, 4, 4]}
        for number in range(40)
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    path = tmp_path / "all.json"
    path.write_text(json.dumps(content))
    result = cut(path, "fractions=[0.5,0.5]", "classes=[b]")
    parts = contents(result)
    assert [sum(each["category_id"] == 2 for each in part["annotations"]) for part in parts.values()] == [2, 2]
    assert sum(len(part["annotations"]) for part in parts.values()) == 40
    log = (result.folder / "split.log").read_text()
    assert "annotations of a (36) are left out" in log
    training = load_config([f"output_dir={result.folder}", "resume=auto"])
    assert find_run(training, tmp_path) is None  # it is no run that a training could go on with
    with pytest.raises(UserError, match="classes names c, a class that"):
        cut(path, "classes=[c]", to="other")


def test_all_splits_of_a_data_set_are_cut_again_in_any_format(tmp_path: Path) -> None:
    roboflow(tmp_path / "data", small_coco(4), small_coco(6))
    given = ["data=roboflow", f"data.root={tmp_path / 'data'}", "fractions=[0.5,0.5]", "duplicates=true", "workers=1"]
    for format_ in ("coco", "yolo"):
        result = split(configured(*given, f"format={format_}", f"output_dir={tmp_path / format_}"))
        assert [len(rows) for rows in result.parts.values()] == [5, 5]
    images = f"data.train.images={tmp_path / 'data'}", f"data.val.images={tmp_path / 'data'}"
    paths = [f"data.{name}.annotations={tmp_path / 'coco' / name}.json" for name in ("train", "val")]
    for settings in (["data=custom", *paths, *images], ["data=auto", f"data.root={tmp_path / 'yolo'}"]):
        splits = read_splits(load_config(settings))
        assert [len(each) for each in splits.by_name.values()] == [5, 5]
        assert sum(each.num_objects for each in splits.by_name.values()) == 20


def test_another_format_needs_the_images(tmp_path: Path) -> None:
    root = roboflow(tmp_path / "data", small_coco(4))
    given = [f"annotations={root}/train/_annotations.coco.json", "format=yolo", f"output_dir={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="images is not set; format=yolo copies them: images=FOLDER"):
        split(configured(*given))
    with pytest.raises(UserError, match="nowhere does not exist; give the folder of the images"):
        split(configured(*given, "images=nowhere"))
    (root / "train/2.png").unlink()
    with pytest.raises(
        UserError, match=r"1 of 4 images named in .* are missing in .*, first: 2\.png\. Correct the folder of images$"
    ):
        split(configured(*given, f"images={root}/train"))
    assert not (tmp_path / "out").exists()


def test_folds_of_another_format_are_data_sets_of_their_own(tmp_path: Path) -> None:
    roboflow(tmp_path / "data", small_coco(4), small_coco(2))
    given = ["data=auto", f"data.root={tmp_path / 'data'}", "folds=3", "format=labelme"]
    split(configured(*given, f"output_dir={tmp_path / 'out'}"))
    for number in range(3):
        splits = read_splits(load_config(["data=auto", f"data.root={tmp_path / 'out' / f'fold_{number}'}"]))
        assert (len(splits.train), len(splits.val)) == (4, 2)
