"""A crash leaves a good file; a bad file is noticed."""

from __future__ import annotations

import errno
import io
import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

from maskrcnn_train.engine import checkpoint
from maskrcnn_train.engine.checkpoint import Checkpoints, read_checkpoint, restore, save_plain
from maskrcnn_train.engine.precision import grad_scaler
from maskrcnn_train.engine.state import MovingAverage, Position, TrainingState
from maskrcnn_train.settings.compose import load_config
from maskrcnn_train.settings.errors import UserError

CONFIG = asdict(load_config())


def state(step: int = 0, device: torch.device | str = "cpu") -> TrainingState:
    torch.manual_seed(step)
    model = nn.Linear(3, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3, device=device)).sum().backward()
    optimizer.step()
    return TrainingState(model, optimizer, grad_scaler("fp32", torch.device(device)), None, Position(step=step))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    about = {"config": CONFIG, "classes": {"names": ["a"], "ids": [1]}}
    return Checkpoints(tmp_path / "checkpoints", about=about)


def test_a_saved_state_is_restored_to_the_bit(checkpoints: Checkpoints) -> None:
    saved, fresh = state(7), state(1)
    checkpoints.save_last(saved)
    content, trouble = checkpoints.load_last()
    restore(fresh, content, CONFIG)
    assert trouble is None
    assert fresh.position == saved.position
    assert torch.equal(fresh.model.weight, saved.model.weight)
    momentum = [next(iter(one.optimizer.state.values()))["momentum_buffer"] for one in (fresh, saved)]
    assert torch.equal(*momentum)


def test_the_average_is_what_is_kept_as_the_best_and_goes_on(checkpoints: Checkpoints) -> None:
    saved, fresh = state(7), state(1)
    saved.ema, fresh.ema = (MovingAverage(state(step).model, decay=0.9) for step in (8, 2))
    checkpoints.save_last(saved)
    checkpoints.save_best(saved, {})
    content, _ = checkpoints.load_last()
    restore(fresh, content, CONFIG)
    average = saved.ema.model.weight
    assert torch.equal(fresh.ema.model.weight, average)
    assert torch.equal(read_checkpoint(checkpoints.folder / "best.pt")["model"]["weight"], average)
    restore(fresh, content | {"ema": None}, CONFIG)  # of a run that began without: it begins at the weights
    assert torch.equal(fresh.ema.model.weight, fresh.model.weight)
    assert torch.equal(fresh.model.weight, saved.model.weight)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(checkpoints: Checkpoints, damage: str) -> None:
    checkpoints.save_last(state(1))
    checkpoints.save_last(state(2))
    path = checkpoints.folder / "last.pt"
    raw = bytearray(path.read_bytes())
    if damage == "flipped":
        # Inside the first weight: torch itself would load the wrong number.
        raw[raw.index(state(2).model.weight.detach().numpy().tobytes()) + 3] ^= 0x40
    path.write_bytes({"truncated": bytes(raw[: len(raw) // 2]), "flipped": bytes(raw), "empty": b""}[damage])
    content, trouble = checkpoints.load_last()
    assert content["position"]["step"] == 1
    assert trouble is not None
    assert "last.pt" in trouble


def test_a_full_disk_leaves_the_checkpoint_before(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save_last(state(1))

    class FullDisk(io.BytesIO):
        def write(self, content: object) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device")

    save = torch.save
    monkeypatch.setattr(checkpoint.torch, "save", lambda content, _: save(content, FullDisk()))
    with pytest.raises(UserError, match=r"last\.pt: No space left on device; is the disk full\?.*is intact"):
        checkpoints.save_last(state(2))
    assert checkpoints.load_last()[0]["position"]["step"] == 1
    assert not list(checkpoints.folder.glob("*.part"))
    (checkpoints.folder / "last.pt").unlink()
    with pytest.raises(UserError, match=r"is the disk full\?$"):
        checkpoints.save_last(state(2))


# ---------------------------------------------------------------- written by a thread


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The first file is written once this is set."""
    event, whole = threading.Event(), torch.save

    def held(content: Any, file: Any) -> None:
        assert event.wait(timeout=10)
        whole(content, file)

    monkeypatch.setattr(checkpoint.torch, "save", held)
    return event


def test_a_state_is_written_as_it_was_when_it_was_saved(
    checkpoints: Checkpoints, held_back: threading.Event, device: torch.device
) -> None:
    saved, fresh = state(7, device), state(1, device)
    checkpoints.save_last(saved, wait=False)
    with torch.no_grad():
        for tensor in (saved.model.weight, next(iter(saved.optimizer.state.values()))["momentum_buffer"]):
            tensor.zero_()
    saved.position.step = 8
    held_back.set()
    checkpoints.finish()
    restore(fresh, checkpoints.load_last()[0], CONFIG)
    assert fresh.position.step == 7
    assert torch.equal(fresh.model.weight, state(7, device).model.weight)
    momentum = [next(iter(one.optimizer.state.values()))["momentum_buffer"] for one in (fresh, state(7, device))]
    assert torch.equal(*momentum)


def test_a_second_file_waits_for_the_first(checkpoints: Checkpoints, held_back: threading.Event) -> None:
    checkpoints.save_last(state(1), wait=False)
    threading.Timer(0.2, held_back.set).start()
    checkpoints.save_last(state(2))
    checkpoints.finish()
    steps = [read_checkpoint(checkpoints.folder / f"{name}.pt")["position"]["step"] for name in ("last", "previous")]
    assert steps == [2, 1]


@pytest.mark.parametrize(
    "then", [Checkpoints.check, Checkpoints.finish, lambda checkpoints: checkpoints.save_last(state(3))]
)
def test_what_goes_wrong_in_the_thread_is_said_next(
    then: Callable[[Checkpoints], None], checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(content: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    checkpoints.save_last(state(1))
    monkeypatch.setattr(checkpoint.torch, "save", full)
    checkpoints.save_last(state(2), wait=False)
    for thread in [each for each in threading.enumerate() if each.name.startswith("checkpoint")]:
        thread.join()
    with pytest.raises(UserError, match=r"cannot write .*last\.pt: No space left on device"):
        then(checkpoints)
    checkpoints.finish()  # it is said once
    assert checkpoints.load_last()[0]["position"]["step"] == 1


# ---------------------------------------------------------------- read


@pytest.mark.parametrize("key", ["config", "classes", "model"])
def test_a_checkpoint_without_a_part_is_incomplete(checkpoints: Checkpoints, key: str) -> None:
    checkpoints.save_last(state(1))
    content = read_checkpoint(checkpoints.folder / "last.pt")
    save_plain({name: value for name, value in content.items() if name != key}, checkpoints.folder / "part.pt")
    with pytest.raises(UserError, match=f"part.pt is incomplete: it has no {key}"):
        read_checkpoint(checkpoints.folder / "part.pt")


@pytest.mark.parametrize("key", ["optimizer", "ema", "scaler", "position"])
def test_a_state_without_a_part_gives_way_to_the_one_before(checkpoints: Checkpoints, key: str) -> None:
    checkpoints.save_last(state(1))
    checkpoints.save_last(state(2))
    content = read_checkpoint(checkpoints.folder / "last.pt")
    save_plain({name: value for name, value in content.items() if name != key}, checkpoints.folder / "last.pt")
    content, trouble = checkpoints.load_last()
    assert content["position"]["step"] == 1
    assert trouble is not None
    assert f"it has no {key}" in trouble


def test_a_restored_optimizer_has_the_moments_of_the_file_and_the_settings_of_now(checkpoints: Checkpoints) -> None:
    checkpoints.save_last(state(7))
    fresh = state(1)
    fresh.optimizer.param_groups[0] |= {"momentum": 0.5, "weight_decay": 0.01}
    restore(fresh, checkpoints.load_last()[0], CONFIG)
    assert fresh.optimizer.param_groups[0]["momentum"] == 0.5
    assert fresh.optimizer.param_groups[0]["weight_decay"] == 0.01
    assert len(fresh.optimizer.state) == 2


def test_another_optimizer_is_named(checkpoints: Checkpoints) -> None:
    checkpoints.save_last(state(1))
    fresh = state(1)
    fresh.optimizer = torch.optim.AdamW(fresh.model.parameters())
    with pytest.raises(UserError, match="trained with another optimizer"):
        restore(fresh, checkpoints.load_last()[0], CONFIG)


def test_the_settings_that_make_another_model_are_named(checkpoints: Checkpoints) -> None:
    checkpoints.save_last(state(1))
    wider = state(1)
    wider.model = nn.Linear(3, 4)
    ours = asdict(load_config(["roi_head.fc_dim=77", "roi_head.score_threshold=0.5", "optimizer.lr=1"]))
    with pytest.raises(UserError, match=r"roi_head\.fc_dim=77, where the run has roi_head\.fc_dim=1024$"):
        restore(wider, checkpoints.load_last()[0], ours)
    with pytest.raises(UserError, match=r"does not fit .* size mismatch for weight"):
        restore(wider, checkpoints.load_last()[0], CONFIG)


def test_a_position_of_another_form_does_not_fit(checkpoints: Checkpoints) -> None:
    checkpoints.save_last(state(1))
    content, _ = checkpoints.load_last()
    content["position"]["sheep"] = 3
    with pytest.raises(UserError, match=r"does not fit.*sheep"):
        restore(state(1), content, CONFIG)


def test_the_json_beside_says_what_a_checkpoint_is(checkpoints: Checkpoints) -> None:
    checkpoints.save_best(state(3), {"segm/AP": 0.5})
    about = json.loads((checkpoints.folder / "best.json").read_text())
    assert about["backbone"] == "resnet50"
    assert about["metrics"] == {"segm/AP": 0.5}


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, said in (("other.pt", "not a maskrcnn_train checkpoint"), ("text.pt", "damaged"), ("no.pt", "not exist")):
        with pytest.raises(ValueError, match=said):
            read_checkpoint(tmp_path / name)


def test_a_pickle_with_a_payload_does_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"format": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="is refused"):
        read_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()
