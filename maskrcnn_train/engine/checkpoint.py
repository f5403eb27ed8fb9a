"""Checkpoints on disk: plain data, written aside and renamed, read without running any code.

A training keeps `last.pt` and the one before it, `previous.pt`; `best.pt` holds the best weights only.
Beside each stands a JSON that says what it is.
"""

import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from maskrcnn_train.engine.distributed import unwrap
from maskrcnn_train.engine.precision import wait_for
from maskrcnn_train.engine.state import Position, TrainingState
from maskrcnn_train.files import write_json, written_aside
from maskrcnn_train.model.weights.files import read_torch
from maskrcnn_train.settings.errors import UserError, first_line
from maskrcnn_train.settings.overrides import flat_settings, overrides_text
from maskrcnn_train.structures.classes import ClassMap

FORMAT = "maskrcnn_train/1"
RESUMABLE = ("last.pt", "previous.pt")  # the newest first
KEYS = ("config", "classes", "model")
# the settings that decide about layers, and about what the optimizer keeps of each
BUILDING = {f"{head}.{key}" for head in ("roi_head", "mask_head") for key in ("conv_dim", "num_convs", "num_fcs")}
BUILDING |= {f"{head}.{key}" for head in ("roi_head", "mask_head") for key in ("fc_dim", "norm", "class_agnostic")}
BUILDING |= {f"backbone.{key}" for key in ("name", "timm_name", "norm", "trainable_stages", "fpn_channels", "fpn_norm")}
BUILDING |= {"rpn.num_convs", "rpn.anchors.aspect_ratios", "pooler.resolution", "mask_head.name", "data.channels"}
BUILDING |= {"weights.source", "optimizer.name", "optimizer.norm_weight_decay"}
RESUMED_KEYS = (*KEYS, "ema", "optimizer", "scaler", "position")


class Checkpoints:
    """The `checkpoints/` folder of a run, where one file is written at a time.

    about: plain data that goes into every file: the config and the class map. enabled: false on all ranks but one.

    With `wait=False` a save returns once the state is copied to the host, and a thread writes the copy while the
    training goes on. What goes wrong there is raised by the next save, `check` or `finish`.
    """

    def __init__(self, folder: Path, *, about: dict[str, Any], enabled: bool = True) -> None:
        self.folder, self.about, self.enabled = folder, about, enabled
        self._written: Future[None] | None = None  # the end of what the thread does

    @property
    def exist(self) -> bool:
        return any((self.folder / name).exists() for name in RESUMABLE)

    def save_last(self, state: TrainingState, *, wait: bool = True) -> None:
        """Everything that is needed to go on. Raises UserError when the disk is full; the file before stays intact."""
        content = {
            "model": unwrap(state.model).state_dict(),
            "ema": None if state.ema is None else state.ema.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "position": asdict(state.position),
        }
        self._save("last", content, wait)

    def save_best(self, state: TrainingState, metrics: dict[str, float], *, wait: bool = True) -> None:
        """The weights that were evaluated, with their metrics."""
        content = {"model": state.judged.state_dict(), "metrics": metrics, "position": asdict(state.position)}
        self._save("best", content, wait)

    def check(self) -> None:
        """Raise what went wrong with the last file, if that is known by now."""
        if self._written is not None and self._written.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the last file is there. Raises what went wrong with it."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _save(self, name: str, content: dict[str, Any], wait: bool) -> None:
        if not self.enabled:
            return
        self.finish()
        if wait:
            self._write(name, content)
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written = thread.submit(self._write, name, _on_host(content))
        thread.shutdown(wait=False)  # it ends with the file

    def _write(self, name: str, content: dict[str, Any]) -> None:
        previous = self.folder / "previous.pt" if name == "last" else None
        save_plain({"format": FORMAT, **self.about, **content}, self.folder / f"{name}.pt", previous=previous)
        config = self.about["config"]
        summary = {
            "what": "maskrcnn_train checkpoint",
            "backbone": config["backbone"]["name"],
            "masks": config["mask_head"]["name"] != "none",
            "classes": self.about["classes"]["names"],
            "numerics": config["numerics"]["name"],
            "position": content["position"],
            "metrics": content.get("metrics"),
        }
        write_json(self.folder / f"{name}.json", summary, indent=2)

    def load_last(self) -> tuple[dict[str, Any], str | None]:
        """The newest readable state, and what is wrong with a newer one, if anything. Raises UserError without any."""
        trouble = None
        for path in (self.folder / name for name in RESUMABLE if (self.folder / name).exists()):
            try:
                return read_checkpoint(path, keys=RESUMED_KEYS), trouble
            except UserError as error:
                trouble = trouble or str(error)
        raise UserError(trouble or f"no checkpoint to resume from in {self.folder}")


def _on_host(content: dict[str, Any]) -> dict[str, Any]:
    """A copy in the host's memory, which the next step does not change; from a GPU in pinned memory, with one wait."""
    device = next(iter(content["model"].values())).device
    copy = tree_map_only(torch.Tensor, lambda tensor: tensor.to("cpu", non_blocking=True, copy=True), content)
    wait_for(device)
    return copy  # type: ignore[no-any-return]


def save_plain(content: dict[str, Any], path: Path, *, previous: Path | None = None) -> None:
    """Write tensors and plain containers; a file that was there becomes `previous`, if given.

    Raises UserError with the path when the disk is full; what was there stays.
    """
    try:
        with written_aside(path) as aside:
            with open(aside, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                os.replace(path, previous)
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else error  # which torch's zip writer hides
        reason = getattr(cause, "strerror", None) or first_line(error)
        kept = "; the file that was there is intact" if path.exists() else ""
        raise UserError(f"cannot write {path}: {reason}; is the disk full?{kept}") from error


def read_checkpoint(path: Path, *, keys: Sequence[str] = KEYS) -> dict[str, Any]:
    """The content of a checkpoint of ours, on the CPU.

    Raises UserError when the file is missing, damaged (each entry's checksum is verified), not ours, or lacks `keys`.
    """
    other = f"{path} is not a maskrcnn_train checkpoint; to start from foreign weights use weights=file"
    return read_plain(path, f"checkpoint {path}", form=FORMAT, keys=keys, other=other)


def read_plain(path: Path, name: str, *, form: str, keys: Sequence[str], other: str) -> dict[str, Any]:
    """What `save_plain` wrote with `form` as its format, on the CPU. name: what a person calls the file.

    Raises UserError when the file is missing, damaged, of another format (saying `other`), or lacks one of `keys`.
    """
    content = _load(path, name)
    if not isinstance(content, dict) or content.get("format") != form:
        raise UserError(other)
    if missing := [key for key in keys if key not in content]:
        raise UserError(f"{name} is incomplete: it has no {', '.join(missing)}")
    ClassMap.from_plain(content["classes"])
    return content


def _load(path: Path, name: str) -> Any:
    if path.is_dir():
        inside = [each for each in (path / "checkpoints" / "best.pt", path / "best.pt") if each.is_file()]
        raise UserError(f"{name} is a folder; give a file in it{f', e.g. {inside[0]}' if inside else ''}")
    if not path.is_file():
        raise UserError(f"{name} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise UserError(f"{name} is damaged (checksum of {damaged})")
        return read_torch(path, name)
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(f"{name} is damaged or not a torch file") from error
    except Exception as error:
        raise UserError(f"{name} cannot be read: {first_line(error)}") from error


def check_classes(ours: ClassMap, saved: dict[str, Any]) -> None:
    """Raises UserError where the rows of the saved predictors mean other classes than those of the data."""
    theirs = ClassMap.from_plain(saved)
    if ours.names != theirs.names:
        raise UserError(
            f"the checkpoint was trained for {theirs}; the data now has {ours}. To start from its weights: weights=file"
        )


def restore(state: TrainingState, content: dict[str, Any], ours: dict[str, Any]) -> None:
    """Put a saved state into freshly built objects. Raises UserError when the model or optimizer differs.

    ours: the settings that these were built with, as plain data.
    """
    try:
        unwrap(state.model).load_state_dict(content["model"])
        _load_optimizer(state.optimizer, content["optimizer"])
        if content["scaler"]:  # empty where the training was not in fp16
            state.scaler.load_state_dict(content["scaler"])
        if state.ema is not None:
            state.ema.model.load_state_dict(content["ema"] or content["model"])
        state.position = Position(**content["position"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = _differing(content["config"], ours) or " ".join(str(error).split())[:300]
        raise UserError(f"the checkpoint does not fit the configured model or optimizer: {reason}") from error


def _differing(saved: dict[str, Any], ours: dict[str, Any]) -> str:
    """The settings of BUILDING that differ, in words."""
    theirs, own = flat_settings(saved), flat_settings(ours)
    changed = [key for key in own if key in BUILDING & theirs.keys() and own[key] != theirs[key]]
    asked, there = (overrides_text({key: values[key] for key in changed}) for values in (own, theirs))
    return f"{asked}, where the run has {there}" if changed else ""


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Moments and counts from the file; momentum, weight decay and the like as they are configured now."""
    kinds = [{"betas", "momentum"} & groups[0].keys() for groups in (optimizer.param_groups, saved["param_groups"])]
    if kinds[0] != kinds[1]:
        raise UserError("it was trained with another optimizer; go on with its own, without optimizer=")
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, configured in zip(optimizer.param_groups, options, strict=True):
        group.update(configured)
