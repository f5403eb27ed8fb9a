"""Feature extractors of timm (extra `timm`) as the body of a backbone."""

import urllib.request
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from maskrcnn_train.settings.errors import UserError, first_line

STRIDES = (4, 8, 16, 32)
PROBE_SECONDS = 3


class TimmBody(nn.Module):
    """A timm model that gives four maps of strides 4..32; parameters are named as in timm's `features_only`.

    channels_last_output: its maps are [N, H, W, C], as a Swin's.
    """

    def __init__(self, features: nn.Module, *, channels_last_output: bool) -> None:
        super().__init__()
        self.features = features
        self.channels_last_output = channels_last_output

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        maps = self.features(pixels)
        if self.channels_last_output:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        return {str(level): each for level, each in enumerate(maps)}


def build_timm_body(
    name: str, *, in_channels: int, frozen_norm: bool
) -> tuple[nn.Module, list[int], tuple[tuple[str, ...], ...]]:
    """Body with random weights, widths of its four maps, and its stages from the top.

    Raises UserError for a name that timm does not know, or a model without maps of strides 4, 8, 16 and 32.
    """
    features = create_features(name, pretrained=False, in_chans=in_channels)
    widths = features.feature_info.channels()
    if frozen_norm:
        from timm.layers import norm_act

        features = cast(Any, norm_act.freeze_batch_norm_2d)(features)
    body = TimmBody(features, channels_last_output=_is_channels_last(features, name, widths, in_channels))
    return body, widths, _stages(features)


def create_features(name: str, *, pretrained: bool, **options: Any) -> Any:
    """timm's `features_only` model with the four maps."""
    try:
        import timm
    except ImportError as error:
        raise UserError("backbone=timm needs the package timm; pip install 'maskrcnn-train[timm]'") from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        raise UserError(f"backbone.timm_name={name} is not a model of timm; near: {', '.join(near) or 'none'}")
    try:
        reductions = cast(Any, timm.create_model(name, features_only=True)).feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(f"backbone.timm_name={name} gives no feature maps ({first_line(error)})") from error
    if not set(STRIDES) <= set(reductions) or len(set(reductions)) != len(reductions):
        raise UserError(
            f"backbone.timm_name={name} has maps of strides {reductions}; an FPN needs 4, 8, 16 and 32, one each"
        )
    levels = [reductions.index(stride) for stride in STRIDES]
    options |= {"features_only": True, "out_indices": levels, "pretrained": pretrained}
    try:  # models of fixed image size say so only if they are asked to
        return timm.create_model(name, strict_img_size=False, **options)
    except TypeError:
        return timm.create_model(name, **options)


def _is_channels_last(features: nn.Module, name: str, widths: list[int], in_channels: int) -> bool:
    training = features.training
    try:
        with torch.no_grad():
            maps = features.eval()(torch.zeros(1, in_channels, 64, 96))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"backbone.timm_name={name} does not take images of any size ({first_line(error)})") from error
    features.train(training)
    sizes = {tuple(each.shape[1:]) for each in maps}
    expected = {(width, 64 // stride, 96 // stride) for width, stride in zip(widths, STRIDES, strict=True)}
    if sizes == expected or sizes == {(height, width, channels) for channels, height, width in expected}:
        return sizes != expected
    raise UserError(f"backbone.timm_name={name} gives maps of sizes {sorted(sizes)} for an image of 64 x 96")


def _stages(features: Any) -> tuple[tuple[str, ...], ...]:
    """Children of the body by stage, from the top; what comes before the first map's module is the stem."""
    ends = [name.replace(".", "_") for name in features.feature_info.module_name()]
    names = [name for name, _ in features.named_children()]
    if not all(end in names for end in ends):  # a model that is kept whole trains as one, unless no stage does
        return tuple(f"features.{name}" for name in names), (), (), (), ()
    first, *others = (names.index(end) for end in ends)
    bounds = [0, first, first + 1, *(index + 1 for index in others)]
    stages = [tuple(f"features.{name}" for name in names[start:end]) for start, end in pairwise(bounds)]
    return tuple(reversed(stages))


def load_pretrained(body: TimmBody, name: str, in_channels: int) -> list[str]:
    """timm's own weights into the body; returns the names of the layers. Raises UserError offline, within seconds.

    For other than three channels timm spreads the first conv, as `weights/loading.py` does for others.
    """
    import timm
    from huggingface_hub import try_to_load_from_cache

    info = timm.models.get_pretrained_cfg(name)
    if info is None or not (info.hf_hub_id or info.url or info.file):
        raise UserError(f"timm has no pretrained weights for {name}; start with weights=none")
    overlay: dict[str, Any] = {}
    if info.hf_hub_id:
        cached = try_to_load_from_cache(info.hf_hub_id, "model.safetensors")
        if isinstance(cached, str):
            overlay = {"pretrained_cfg_overlay": {"file": cached, "hf_hub_id": None}}
        else:
            _require_network(info.hf_hub_id)
    state = create_features(name, pretrained=True, in_chans=in_channels, **overlay).state_dict()
    body.features.load_state_dict(state, strict=True)
    return list(state)


def trained_pixels(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixel values that timm's own weights of a model were trained on."""
    import timm

    info = timm.models.get_pretrained_cfg(name)
    assert info is not None
    return list(info.mean), list(info.std)


def _require_network(hub_id: str) -> None:
    """The hub's own client tries for most of a minute before it gives up."""
    address = f"https://huggingface.co/{hub_id}/resolve/main/model.safetensors"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PROBE_SECONDS):
            pass
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"cannot download {address} ({reason}); fetch it elsewhere into the cache of huggingface_hub "
            f"(hf download {hub_id}), or start with weights=none"
        ) from error
