"""`predict`, as a command and from Python: every kind of input, and bad images named and skipped."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import predicted as run
from PIL import Image
from tiny import untrained_checkpoint

from maskrcnn_train import Predictor, load_checkpoint, predict
from maskrcnn_train.data.sources import find_images
from maskrcnn_train.prediction.files import draw_detections
from maskrcnn_train.prediction.pictures import Prepared, prepare
from maskrcnn_train.prediction.predictor import detect_batch, detect_pictures
from maskrcnn_train.settings.command_rules import check_predict_rules
from maskrcnn_train.settings.command_schema import DrawConfig, PredictConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.tiles import Tiles

ALL = ["score_threshold=0", "roi_head.score_threshold=0", "roi_head.detections_per_image=4"]


@pytest.fixture(scope="module")
def checkpoint(run_dir: Path) -> Path:
    return run_dir / "checkpoints/last.pt"


def pixels(height: int = 70, width: int = 90, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_folder_becomes_pictures_results_masks_and_a_table(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    for number, place in enumerate(("a.jpg", "b.png", "deep/a.webp")):
        Image.fromarray(pixels(seed=number)).save(tmp_path / "in" / place)
    done = run(checkpoint, tmp_path / "in", tmp_path / "out", "save.masks=true", "save.csv=true", "batch_size=2")
    assert len(done.images) == 3
    assert not done.failed
    assert {path.name for path in (tmp_path / "out/pictures").iterdir()} == {"a.jpg", "b.jpg", "a_2.jpg"}
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert len(results) == 3 * 4
    assert {result["image_id"] for result in results} == {1, 2, 3}
    assert all(result["segmentation"]["size"] == [70, 90] for result in results)
    assert len(list((tmp_path / "out/masks").iterdir())) == 3 * 4
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/detections.csv").read_text())))
    assert len(rows) == 12
    assert rows[0]["file"].endswith("a.jpg")


def test_classes_and_scores_can_be_restricted(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    everything = run(checkpoint, tmp_path / "a.png", tmp_path / "all", "roi_head.detections_per_image=100")
    categories = {result["category_id"] for result in everything.results}
    assert len(categories) > 1
    stars = run(
        checkpoint, tmp_path / "a.png", tmp_path / "star", "roi_head.detections_per_image=100", "classes=[star]"
    )
    assert {result["category_id"] for result in stars.results} == {5} & categories
    best = max(result["score"] for result in everything.results)
    few = run(checkpoint, tmp_path / "a.png", tmp_path / "few", f"score_threshold={best}")
    assert [result["score"] for result in few.results] == [best]
    with pytest.raises(ValueError, match="stra is no class of the model"):
        run(checkpoint, tmp_path / "a.png", tmp_path / "none", "classes=[stra]")


def test_a_score_threshold_below_the_models_own_replaces_it(tmp_path: Path) -> None:
    strict = untrained_checkpoint(tmp_path, "roi_head.score_threshold=1")
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    given = run(strict, tmp_path / "a.png", tmp_path / "given", "roi_head.score_threshold=1")
    asked = run(strict, tmp_path / "a.png", tmp_path / "asked", "roi_head.score_threshold=null")
    assert (len(given.results), len(asked.results)) == (0, 4)
    predictor = load_checkpoint(strict, device="cpu")
    (found,) = predict(predictor, [tmp_path / "a.png"], score_threshold=0.0)
    assert len(found) > 0
    assert predictor.model.roi_heads.rules.score_threshold == 1  # lower for this call only


def test_a_higher_threshold_of_the_heads_decides_and_is_said() -> None:
    arguments = ["checkpoint=a.pt", "images=a.png", "score_threshold=0.5", "roi_head.score_threshold=0.6"]
    _, (warning,) = load_command_config("predict", PredictConfig, check_predict_rules, arguments)
    assert warning.startswith("roi_head.score_threshold=0.6 is above")


def test_masks_of_a_model_without_are_refused_before_the_first_image(tmp_path: Path) -> None:
    boxes_only = untrained_checkpoint(tmp_path, "mask_head=none")
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"save\.masks=true: .*untrained\.pt gives boxes only"):
        run(boxes_only, tmp_path / "a.png", tmp_path / "out", "save.masks=true")
    assert not (tmp_path / "out").exists()


def test_what_was_done_before_an_error_has_its_results(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskrcnn_train.prediction.files import PredictionFiles

    for name in ("a.png", "b.png"):
        Image.fromarray(pixels()).save(tmp_path / name)
    add = PredictionFiles.add

    def failing(self: PredictionFiles, image: Prepared, found: Detections, name: str, image_id: int) -> None:
        if name == "b":
            raise RuntimeError("no space left")
        add(self, image, found, name, image_id)

    monkeypatch.setattr(PredictionFiles, "add", failing)
    with pytest.raises(RuntimeError, match="no space left"):
        run(checkpoint, tmp_path / "*.png", tmp_path / "out")
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [result["image_id"] for result in results] == [1] * 4


def bad_images(folder: Path) -> int:
    """Files that are no pictures, and some that are odd but good; returns how many are bad."""
    folder.mkdir()
    image = Image.fromarray(pixels())
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    image.save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    Image.new("1", (30_000, 30_000)).save(folder / "huge.png")
    Image.new("F", (40, 40)).save(folder / "float.tiff")
    Image.new("RGB", (3000, 1)).save(folder / "thin.png")
    image.convert("L").save(folder / "grey.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.full((40, 60), 30_000, np.uint16)).save(folder / "sixteen.png")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("P").save(folder / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "rotated.jpg", exif=exif)
    return 5


def test_bad_images_are_named_and_good_ones_still_done(checkpoint: Path, tmp_path: Path) -> None:
    bad = bad_images(tmp_path / "in")
    done = run(checkpoint, tmp_path / "in", tmp_path / "out")
    assert len(done.failed) == bad
    assert all("\n" not in line for line in done.failed)
    for name in ("text.jpg", "empty.png", "truncated.jpg", "huge.png", "float.tiff"):
        assert sum(name in line for line in done.failed) == 1
    assert len(done.images) == 8
    sizes = {}
    for path in (tmp_path / "out/pictures").iterdir():
        with Image.open(path) as picture:
            sizes[path.stem] = picture.size
    assert sizes["rotated"][0] < sizes["rotated"][1]  # upright
    assert sizes["grey"][0] > sizes["grey"][1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": "missing/*.jpg"}, "matches anything"),
        ({"images": "EMPTY"}, "holds no pictures"),
        ({"images": "EMP*"}, "matches folders only"),
        ({"classes": "[]"}, "classes is empty"),
        ({"images": "list.txt"}, "is an empty list"),
        ({"images": "binary.txt"}, "binary.txt cannot be read as a text"),
        ({"images": "none.json"}, "names no images"),
        ({"images": "torn.json"}, "is not JSON"),
        ({"images": "fake.mp4"}, "cannot be read as a video"),
        ({"checkpoint": "gone.pt"}, "does not exist"),
        ({"checkpoint": "text.pt"}, "damaged or not a torch file"),
        ({"checkpoint": "other.pt"}, "is not a maskrcnn_train checkpoint"),
        ({"checkpoint": "evil.pt"}, "is refused"),
        ({"output_dir": "full"}, "is not empty"),
        ({"output_dir": "text.pt/inside"}, "Not a directory"),
        ({"device": "cuda:7"}, "GPU"),
        ({"device": "tpu"}, "is no device"),
        ({"tile.size": "5"}, "tile.size=5"),
        ({"score_threshold": "2"}, "score_threshold=2"),
        ({"draw.color_by": "name"}, "draw.color_by=name"),
        ({"draw.mask_opacty": "1"}, "did you mean draw.mask_opacity"),
        ({"images": None}, "images is not set"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    change: dict[str, str | None],
    said: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from maskrcnn_train.predict import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x")
    (tmp_path / "list.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "none.json").write_text(
        json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]})
    )
    (tmp_path / "torn.json").write_text('{"images": [')
    (tmp_path / "fake.mp4").write_text("no video")
    (tmp_path / "text.pt").write_text("no checkpoint")
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    torch.save({"model": {}}, tmp_path / "other.pt")
    torch.save({"run": subprocess.run}, tmp_path / "evil.pt")
    values = {"checkpoint": str(checkpoint), "images": "a.png", "output_dir": "out"} | change
    monkeypatch.setattr(
        sys, "argv", ["predict", *(f"{key}={value}" for key, value in values.items() if value is not None)]
    )
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_lists_and_coco_files_name_their_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(pixels()).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("b.jpg\n\na.jpg\n", encoding="utf-8-sig")  # as Notepad saves it
    assert [each.path.name for each in find_images(str(tmp_path / "list.txt"))] == ["b.jpg", "a.jpg"]
    images = [{"id": 40, "file_name": "b.jpg", "width": 90, "height": 70}]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    assert find_images(str(tmp_path / "coco.json")) == [(tmp_path / "b.jpg", 40, (70, 90))]
    for name in ("coco.json", "list.txt"):
        (tmp_path / name).rename(tmp_path / name.upper())
    assert find_images(str(tmp_path / "COCO.JSON")) == [(tmp_path / "b.jpg", 40, (70, 90))]
    assert len(find_images(str(tmp_path / "LIST.TXT"))) == 2
    assert len(find_images(str(tmp_path / "*.jpg"))) == 2


def test_the_pictures_are_named_only_where_there_are_some(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskrcnn_train.predict import main

    Image.fromarray(pixels()).save(tmp_path / "a.png")
    for wanted in ("true", "false"):
        arguments = [f"checkpoint={checkpoint}", f"images={tmp_path}/a.png", f"output_dir={tmp_path}/{wanted}", *ALL]
        monkeypatch.setattr(sys, "argv", ["predict", *arguments, f"save.pictures={wanted}"])
        main()
        said = capsys.readouterr().out
        assert f"{tmp_path}/{wanted}/predictions.json" in said
        assert (f"{tmp_path}/{wanted}/pictures" in said) == (wanted == "true")


def test_missing_files_of_a_list_are_skipped_and_the_exit_code_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskrcnn_train.predict import main

    Image.fromarray(pixels()).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("gone.jpg\na.png\n")
    arguments = [f"checkpoint={checkpoint}", f"images={tmp_path}/list.txt", f"output_dir={tmp_path}/out"]
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "gone.jpg does not exist" in capsys.readouterr().out
    assert (tmp_path / "out/pictures/a.jpg").is_file()


@pytest.mark.parametrize(
    ("labels", "same_as"), [([1, 1], "instance"), ([2, 2], "instance"), ([1, 2], "class"), ([2], "class")]
)
def test_objects_of_one_class_get_a_colour_each(labels: list[int], same_as: str) -> None:
    boxes = torch.tensor([[5.0, 5, 60, 60], [40, 30, 85, 65]])[: len(labels)]
    found = Detections(boxes, torch.tensor(labels), torch.ones(len(labels)), (70, 90))
    section = DrawConfig(mask_opacity=0.4, box_thickness=None, text_size=None, color_by="auto")

    def drawn(color_by: str) -> bytes:
        chosen = replace(section, color_by=color_by)
        return draw_detections(Image.fromarray(pixels()), found, ["a", "b"], chosen).tobytes()

    assert drawn("auto") == drawn(same_as)
    assert drawn("class") != drawn("instance") or labels == [1, 2]


def test_an_overlap_without_tiles_is_told_to_have_no_effect() -> None:
    given = ["checkpoint=a.pt", "images=b", "tile.overlap=0.3"]
    _, warnings = load_command_config("predict", PredictConfig, check_predict_rules, given)
    assert warnings == ["tile.overlap has no effect with tile.size=null"]
    assert load_command_config("predict", PredictConfig, check_predict_rules, [*given, "tile.size=64"])[1] == []


def test_settings_of_labels_without_a_format_are_told_to_have_no_effect() -> None:
    given = ["checkpoint=a.pt", "images=b", "save.tolerance=0.3"]
    _, warnings = load_command_config("predict", PredictConfig, check_predict_rules, given)
    assert warnings == ["save.tolerance has no effect with save.formats=[]"]
    assert load_command_config("predict", PredictConfig, check_predict_rules, [*given, "save.formats=[coco]"])[1] == []


def test_tiles_give_one_set_of_detections_in_image_pixels(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(pixels(150, 210)).save(tmp_path / "a.png")
    done = run(checkpoint, tmp_path / "a.png", tmp_path / "out", "tile.size=100", "tile.overlap=0.3", "batch_size=4")
    assert len(done.results) > 4  # the budget of detections is a tile's
    assert all(result["segmentation"]["size"] == [150, 210] for result in done.results)
    assert max(result["bbox"][0] for result in done.results) > 100
    predictor = load_checkpoint(checkpoint, device="cpu")
    tiles = Tiles(100, 0.3)
    (small,), (whole,) = (predict(predictor, [pixels(90, 90)], score_threshold=0, tiles=each) for each in (tiles, None))
    assert torch.equal(small.boxes, whole.boxes)  # an image no larger than a tile is one


def test_a_tile_is_cut_when_its_turn_comes(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[weakref.ref[Prepared]]] = []

    def watched(predictor: Predictor, images: list[Prepared], *, score_threshold: float) -> list[Detections]:
        assert not any(tile() for tiles in passes for tile in tiles)  # those before it are gone
        passes.append([weakref.ref(image) for image in images])
        return detect_batch(predictor, images, score_threshold=score_threshold)

    monkeypatch.setattr("maskrcnn_train.prediction.predictor.detect_batch", watched)
    predictor = load_checkpoint(checkpoint, device="cpu")
    predict(predictor, [pixels(100, 210)], tiles=Tiles(100, 0.3), batch_size=2)
    assert [len(tiles) for tiles in passes] == [2, 1]


def test_with_tiles_one_image_is_decoded_ahead(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        Image.fromarray(pixels(40, 60)).save(tmp_path / f"{number}.png")
    decoded, ahead = [], []

    def counted(*given: Any) -> Prepared:
        decoded.append(given)
        return prepare(*given)

    def watched(*given: Any, **settings: Any) -> list[Detections]:
        ahead.append(len(decoded) - len(ahead) - 1)
        return detect_pictures(*given, **settings)

    monkeypatch.setattr("maskrcnn_train.prediction.pipeline.prepare", counted)
    monkeypatch.setattr("maskrcnn_train.prediction.pipeline.detect_pictures", watched)
    run(checkpoint, tmp_path / "*.png", tmp_path / "out", "tile.size=48", "save.pictures=false", "batch_size=4")
    assert len(ahead) == 5
    assert max(ahead) <= 1


def test_tiles_make_room_for_larger_files(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskrcnn_train.prediction.pictures.MAX_PIXELS", 1000)
    Image.fromarray(pixels(40, 60)).save(tmp_path / "a.png")
    predictor = load_checkpoint(checkpoint, device="cpu")
    with pytest.raises(ValueError, match="60 x 40 pixels, more than 1,000; cut it into smaller files"):
        predict(predictor, [tmp_path / "a.png"])
    assert len(predict(predictor, [tmp_path / "a.png"], tiles=Tiles(48, 0.2))) == 1


def test_a_lower_threshold_leaves_the_model_and_its_predictor_as_they_are(checkpoint: Path) -> None:
    predictor = load_checkpoint(checkpoint, device="cpu")
    rules = predictor.model.roi_heads.rules
    lowered = predictor.lowered(0.0)
    assert rules.score_threshold > 0
    assert lowered.rules == replace(rules, score_threshold=0.0)
    assert lowered.lowered(0.5).rules == lowered.rules
    assert predictor.rules is None
    assert predictor.model.roi_heads.rules is rules


# ---------------------------------------------------------------- from Python


def test_every_form_of_an_image_gives_the_same_detections(checkpoint: Path, tmp_path: Path) -> None:
    predictor = load_checkpoint(checkpoint, device="cpu", precision="fp32")
    array = pixels()
    Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [tmp_path / "a.png", Image.fromarray(array), array, tensor, (tensor / 255).requires_grad_()]
    first, *others = predict(predictor, iter(forms), score_threshold=0.0, batch_size=2)
    assert len(first) > 0
    assert first.source == str(tmp_path / "a.png")
    for other in others:
        assert torch.allclose(first.boxes, other.boxes, atol=1e-3)
        assert first.class_names == other.class_names


@pytest.mark.parametrize("name", ["sixteen.png", "turned.jpg"])
def test_a_pil_image_gives_the_detections_of_its_file(checkpoint: Path, tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    if name == "sixteen.png":
        Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257).save(tmp_path / name)
    else:
        Image.fromarray(pixels()).save(tmp_path / name, exif=exif)
    predictor = load_checkpoint(checkpoint, device="cpu", precision="fp32")
    with Image.open(tmp_path / name) as image:
        of_file, of_image = predict(predictor, [tmp_path / name, image], score_threshold=0.0)
    assert len(of_file) > 0
    assert of_file.size == of_image.size == ((90, 70) if name == "turned.jpg" else (70, 90))
    assert torch.equal(of_file.boxes, of_image.boxes)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([pixels().astype(float)], "an image array must be uint8"),
        ([torch.zeros(90, 70, 3)], "an image tensor must be uint8, or float"),
        ([torch.zeros(3, 90, 70, dtype=torch.int64)], "an image tensor must be uint8, or float"),
        ([torch.full((3, 90, 70), 200.0)], "an image tensor of floats must be in 0..1, .*, not from 200 to 200"),
        ([torch.full((3, 90, 70), -2.0)], "an image tensor of floats must be in 0..1"),
        ([torch.full((3, 90, 70), math.nan)], "an image tensor of floats must be in 0..1"),
        ([np.zeros((0, 70, 3), np.uint8)], "an image has 70 x 0 pixels"),
        ([Image.new("RGB", (0, 90))], "an image has 0 x 90 pixels"),
        ([pixels().tolist()], "an image must be a path, a Pillow image, an array or a tensor, not list"),
        ("a.png", "images is one image; give a list"),
        (Image.new("RGB", (9, 9)), "images is one image; give a list"),
        (pixels(), "images is one image; give a list"),
        (torch.zeros(3, 90, 70), "images is one image; give a list"),
    ],
)
def test_what_is_no_list_of_images_is_refused(checkpoint: Path, images: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        predict(load_checkpoint(checkpoint, device="cpu"), images)


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"batch_size": -1}, {"score_threshold": math.nan}])
def test_numbers_that_would_find_nothing_are_refused(checkpoint: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="give 1 or more images, and a score in 0"):
        predict(load_checkpoint(checkpoint, device="cpu"), [pixels()], **given)


def test_detections_convert(checkpoint: Path) -> None:
    predictor = load_checkpoint(checkpoint, device="cpu")
    (found,) = predict(predictor, [pixels()], score_threshold=0.0)
    bitmaps, crops = found.bitmaps(), found.crops()
    assert bitmaps.shape == (len(found), 70, 90)
    for full, (x0, y0, crop), result in zip(bitmaps, crops, found.to_coco(image_id=9), strict=True):
        assert full.sum() == crop.sum()
        assert np.array_equal(full[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]], crop.astype(bool))
        assert result["image_id"] == 9
        assert result["segmentation"]["size"] == [70, 90]
    top = found[found.scores >= found.scores[0]]
    assert len(top) >= 1
    assert top.class_names[0] == found.class_names[0]


def test_detections_become_those_of_supervision(checkpoint: Path) -> None:
    pytest.importorskip("supervision", reason="needs the extra supervision")
    (found,) = predict(load_checkpoint(checkpoint, device="cpu"), [pixels()], score_threshold=0.0)
    theirs = found.to_supervision()
    assert np.array_equal(theirs.xyxy, found.boxes.numpy())
    assert np.array_equal(theirs.confidence, found.scores.numpy())
    assert np.array_equal(theirs.mask, found.bitmaps())
    assert theirs.class_id.tolist() == [label - 1 for label in found.labels.tolist()]
    assert theirs.data["class_name"].tolist() == found.class_names
    assert len(found[found.scores > 1].to_supervision()) == 0


def test_a_model_of_ones_own_becomes_a_predictor(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint, device="cpu")
    names = ["a", "b", "c", "d", "e", "f"]
    predictor = Predictor.from_model(loaded.model, loaded.config, class_names=names)
    (found,) = predict(predictor, [pixels()], score_threshold=0.0)
    assert set(found.class_names) <= set(names)
    with pytest.raises(ValueError, match="6 classes"):
        Predictor.from_model(loaded.model, loaded.config, class_names=["a"])


def test_a_damaged_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    shutil.copy(checkpoint, copy)
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(copy)
    copy.write_bytes(pickle.dumps(1))
    with pytest.raises(ValueError, match=r"copy\.pt"):
        load_checkpoint(copy)


def test_a_json_tells_whether_a_turned_picture_is_meant_as_it_is_stored(checkpoint: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels()).save(tmp_path / "a.jpg", exif=exif)
    height, width = pixels().shape[:2]
    for size in ((height, width), (width, height)):
        images = [{"id": 7, "file_name": "a.jpg", "height": size[0], "width": size[1]}]
        content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
        (tmp_path / "coco.json").write_text(json.dumps(content))
        (found,) = find_images(str(tmp_path / "coco.json"))
        assert prepare(load_checkpoint(checkpoint, device="cpu").config, found.path, None, found.size).size == size
        assert prepare(load_checkpoint(checkpoint, device="cpu").config, found.path).size == (width, height)


def test_an_unknown_precision_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"^trainer.precision=fp8 is not an option; choose one of auto, fp32"):
        load_checkpoint(checkpoint, device="cpu", precision="fp8")
