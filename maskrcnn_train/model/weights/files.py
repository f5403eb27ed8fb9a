"""Reads and writes weight files: runs no code that a file may hold, and uses torchvision's layer names."""

import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maskrcnn_train.files import written_aside
from maskrcnn_train.model.weights.detectron2 import from_detectron2, is_detectron2
from maskrcnn_train.settings.errors import UserError, first_line
from maskrcnn_train.structures.classes import ClassMap

Layers = dict[str, Tensor]
NUMPY_CORE = r"^numpy\._?core\b"  # its name in numpy 1 and 2


@dataclass
class StoredWeights:
    """The content of a weight file.

    layers: of a detection model by torchvision's names, of any other as the file has them. class_names: the class of
    each predictor row, background first, None for an unused row; None as a whole if the file does not say. settings:
    the configuration of the model that the weights come from, plain data as the `config` of a checkpoint; None if
    unknown.
    """

    origin: str
    layers: Layers
    class_names: list[str | None] | None = None
    settings: dict[str, Any] | None = None


def read_weights(path: Path, source: str) -> StoredWeights:
    """Read a file for `weights=source`. Raises UserError for a file that cannot be read or is of another kind."""
    content, notes = _read(path)
    state, averaged = content, content.get("ema")
    if isinstance(content.get("model"), dict):
        state = averaged if averaged and isinstance(averaged, dict) else content["model"]
    elif isinstance(content.get("state_dict"), dict):  # of Lightning, MoCo, OpenMMLab
        state = content["state_dict"]
    layers = _tensors(state, path)
    names, settings = _own_classes(notes.get("classes")), _own_settings(notes.get("config"))
    stored = StoredWeights(path.name, layers, names, settings)
    if is_detectron2(layers) != (source == "detectron2"):
        found, right = ("Detectron2's", "detectron2") if is_detectron2(layers) else ("not Detectron2's", "file")
        raise UserError(f"the layer names in {path} are {found}; load it with weights={right} weights.path={path}")
    if source == "detectron2":
        stored.layers = from_detectron2(layers)
    else:
        prefix = "backbone.body." if source == "imagenet" else ""
        stored.layers = {prefix + _todays_name(name): tensor for name, tensor in layers.items()}
    return stored


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a file, and what it says beside its layers; of a safetensors file its metadata."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                notes = {key: _from_json(text) for key, text in (file.metadata() or {}).items()}
                return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
        content = _read_pickle(path) if path.suffix == ".pkl" else read_torch(path, str(path))
    except (SafetensorError, OSError, EOFError, RuntimeError, MemoryError) as error:
        raise UserError(f"{path} cannot be read as weights: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not named weights")
    return content, content


def _from_json(text: str) -> Any:
    """A value of safetensors metadata; None where it is no JSON: other programs write what they like there."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _own_classes(found: Any) -> list[str | None] | None:
    """The class of each predictor row; None where `classes` is not ours: files of other programs may have any."""
    try:
        return [None, *ClassMap.from_plain(found).names]
    except UserError:
        return None


def _own_settings(found: Any) -> dict[str, Any] | None:
    """The settings of the model; None where `config` is not ours: it lacks what copying the layers looks at."""
    sections = ("backbone", "numerics", "pooler", "mask_head")
    ours = isinstance(found, dict) and all(isinstance(found.get(section), dict) for section in sections)
    return found if ours else None


def read_torch(path: Path, name: str) -> Any:
    """The tensors and plain containers of a file of torch; `name` is used in messages.

    Raises UserError for a damaged file, and for one that would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global) `?([\w.]+)", str(error))
        what = f"it would run {named[1]}" if named else "its content is damaged or more than tensors"
        raise UserError(f"{name} is refused: {what}. Save it again as a plain state_dict, or as safetensors") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged bytes raise errors of every kind in torch's reader
        raise UserError(f"{name} cannot be read: it is damaged, or not a file of torch") from error


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Decoding of Python 2 bytes in a pickle of protocol 2; no other codec is needed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding}")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """Allows numpy arrays and plain containers only; anything else could run code of the file's author."""

    ALLOWED: ClassVar[dict[str, Callable[..., Any]]] = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "numpy.multiarray._reconstruct": cast(Any, np.empty(0)).__reduce__()[0],
        "numpy.multiarray.scalar": cast(Any, np.float64()).__reduce__()[0],
        "collections.OrderedDict": OrderedDict,
        "_codecs.encode": _encode_latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[f"{re.sub(NUMPY_CORE, 'numpy', module)}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def _read_pickle(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it holds {error}, which could run code; "
            "a pickle may hold numpy arrays and plain containers only"
        ) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged bytes raise errors of every kind in numpy's and Python's reader
        raise UserError(f"{path} is not a readable pickle: {first_line(error)}") from error


def _tensors(content: dict[str, Any], path: Path) -> Layers:
    layers = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            value = torch.from_numpy(np.array(value))
        if isinstance(name, str) and isinstance(value, Tensor):
            layers[name.removeprefix("module.")] = value
    if not layers:
        raise UserError(f"{path} holds no named tensors")
    return layers


def _todays_name(name: str) -> str:
    """A layer's name in today's torchvision, whose first COCO file has the names of 2019."""
    name = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
    name = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)
    match = re.match(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)$", name)
    return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}" if match else name


def torchvision_state(model: torch.nn.Module) -> Layers:
    """A copy of the weights on the CPU, as `load_state_dict` of torchvision's model of the same layout takes them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}


def save_safetensors(model: torch.nn.Module, path: Path, *, config: dict[str, Any], classes: dict[str, Any]) -> None:
    """Write weights, with configuration and class map as metadata; `weights=file` reads them. Raises OSError."""
    metadata = {"format": "pt", "config": json.dumps(config), "classes": json.dumps(classes)}
    with written_aside(path) as aside:
        save_file(torchvision_state(model), aside, metadata=metadata)
