"""Where a run is written, and how it is found again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from maskrcnn_train.engine.run_folder import find_run, open_run_folder
from maskrcnn_train.files import write_text
from maskrcnn_train.settings.compose import beside_resumed, load_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import overrides_of, resumed_overrides
from maskrcnn_train.settings.schema import TrainConfig


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    with pytest.raises(UserError, match=f"resume={tmp_path}"):
        open_run_folder(str(tmp_path), "train")


def test_runs_in_one_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as when all of them look before the first is made
    assert len({open_run_folder(None, "train") for _ in range(3)}) == 3


def test_auto_finds_the_newest_run_of_the_same_settings(tmp_path: Path) -> None:
    for name, overrides in (("a", ["seed=1"]), ("b", ["seed=2"])):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(asdict(load_config(overrides))))
    assert find_run(load_config(["seed=1", "resume=auto"]), tmp_path) == tmp_path / "a"
    assert find_run(load_config(["seed=3", "resume=auto"]), tmp_path) is None


@pytest.mark.parametrize("content", [b"seed: [1", b"- a list", b"", b"\xff\xfe\x00"])
def test_a_damaged_run_is_passed_over(content: bytes, tmp_path: Path) -> None:
    for name in ("good", "damaged"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "good/config.yaml").write_text(yaml.safe_dump(asdict(load_config(["seed=1"]))))
    (tmp_path / "damaged/config.yaml").write_bytes(content)
    assert find_run(load_config(["seed=1", "resume=auto"]), tmp_path) == tmp_path / "good"


def test_auto_takes_a_run_that_has_no_checkpoint_but_no_other_folder(tmp_path: Path) -> None:
    config = load_config([f"output_dir={tmp_path}", "resume=auto"])
    (tmp_path / "notes.txt").write_text("mine")
    assert find_run(config, tmp_path) is None
    with pytest.raises(UserError, match="is not empty"):
        open_run_folder(config.output_dir, "train")
    (tmp_path / "train.log").write_text("started")
    assert find_run(config, tmp_path) == tmp_path


def test_a_resume_path_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no run"):
        find_run(load_config([f"resume={tmp_path}"]), tmp_path)


def test_a_run_is_not_resumed_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    given = [f"resume={tmp_path}/run/checkpoints/last.pt"]
    assert find_run(load_config([*given, f"output_dir={tmp_path}/other/../run"]), tmp_path) == tmp_path / "run"
    with pytest.raises(UserError, match=r"its own folder, not in output_dir=.*copy the run there"):
        find_run(load_config([*given, f"output_dir={tmp_path}/other"]), tmp_path)


def test_a_preset_that_a_resumed_run_overrules_is_told(tmp_path: Path) -> None:
    config = load_config(["schedule=cosine", "augmentation=strong", "optimizer=adamw", "schedule.warmup_steps=9"])
    write_text(tmp_path / "overrides.yaml", yaml.safe_dump(overrides_of(config, load_config())))

    def told(*given: str) -> list[str]:
        return beside_resumed("train", TrainConfig, [f"resume={tmp_path}", *given])[1]

    assert told("optimizer=adamw", "schedule=cosine", "schedule.warmup_steps=9", "trainer.epochs=9") == []
    (warning,) = told("schedule=multistep")
    assert "beside schedule=multistep the run keeps its own values: schedule.name=cosine, schedule.warm" in warning
    (warning,) = told("augmentation=none", "augmentation.min_crop=1")
    assert "augmentation.rotation=5, augmentation.color_jitter=0.5; give" in warning


def test_a_resumed_run_is_not_mixed_with_an_experiment_or_other_weights(tmp_path: Path) -> None:
    given = ["experiment=finetune", "optimizer.lr=0.5"]
    for name, overrides in (("usual", []), ("tuned", overrides_of(load_config(given), load_config()))):
        write_text(tmp_path / name / "overrides.yaml", yaml.safe_dump(overrides))
    usual, tuned = (f"resume={tmp_path / name}" for name in ("usual", "tuned"))
    again = load_config([tuned, *given, "weights=coco", "trainer.epochs=30"])  # as a repeated command does
    assert (again.optimizer.lr, again.trainer.epochs, again.weights.source) == (0.5, 30, "coco")
    for run, other in (
        (usual, "experiment=finetune"),
        (tuned, "experiment=scratch"),
        (usual, "weights=imagenet"),
        (tuned, "weights.path=x.pt"),
    ):
        with pytest.raises(UserError, match=rf"{other} beside resume= would change the run to .*; leave it out"):
            load_config([run, other])


def test_overrides_rebuild_the_configuration() -> None:
    given = [
        "backbone=resnet18",
        "data=roboflow",
        "data.root='/a b/c,d'",
        "augmentation=multiscale",
        "trainer.max_steps=5",
    ]
    config = load_config([*given, "weights.class_map={auto: car}", "optimizer.scale_lr=false"])
    overrides = overrides_of(config, load_config())
    assert "backbone.name=resnet18" in overrides
    assert load_config(overrides) == config


def test_resuming_a_path_takes_the_settings_of_that_run_and_the_given_ones_on_top(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    write_text(run / "overrides.yaml", yaml.safe_dump(["seed=5", "trainer.epochs=3"]))
    for resume in (f"resume={run}/checkpoints/last.pt", f"resume='{run}'"):
        config = load_config([resume, "trainer.epochs=9"])
        assert (config.seed, config.trainer.epochs) == (5, 9)
    assert resumed_overrides(["resume=auto"]) is None
    with pytest.raises(UserError, match=r"goes on from its last\.pt; give resume=.*my run, or .* weights\.path=.*best"):
        resumed_overrides([f"resume={run}/checkpoints/best.pt"])
