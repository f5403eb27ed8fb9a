"""Published files: found in torch's cache, checked by the hash in their name, or asked for with address and place."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from torchvision.models import get_model_weights
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, MaskRCNN_ResNet50_FPN_Weights

from maskrcnn_train.model.weights.published import ADDRESS, COCO, IMAGENET, check_hash, download, find_weights
from maskrcnn_train.settings.compose import load_config
from maskrcnn_train.settings.errors import UserError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def found(*overrides: str) -> Path | None:
    return find_weights(load_config(list(overrides)))


def test_addresses_are_torchvisions() -> None:
    for name, file in IMAGENET.items():
        assert get_model_weights(name)["IMAGENET1K_V1"].url == ADDRESS + file
    assert MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url == ADDRESS + COCO["coco"]
    assert MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url == ADDRESS + COCO["coco_v2"]


def test_a_wrong_file_of_the_right_name_is_noticed(cache: Path) -> None:
    (cache / COCO["coco"]).write_bytes(b"another file")
    with pytest.raises(ValueError, match="is not the published file") as error:
        found("weights=coco")
    assert str(cache / COCO["coco"]) in str(error.value)
    assert "weights.verify=false" in str(error.value)
    assert found("weights=coco", "weights.verify=false") == cache / COCO["coco"]


def test_the_right_content_passes(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    path = tmp_path / f"model-{digest[:8]}.pth"
    path.write_bytes(b"content")
    check_hash(path)


def test_without_file_and_network_the_line_has_address_and_place(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(ValueError, match="no route to host") as error:
        found("weights=imagenet", "backbone=resnet101")
    assert ADDRESS + IMAGENET["resnet101"] in str(error.value)
    assert str(cache / IMAGENET["resnet101"]) in str(error.value)
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("overrides", "way_out"),
    [
        (["experiment=finetune", "backbone=resnet18"], "use backbone=resnet50, or weights=imagenet for resnet18"),
        (["weights=imagenet", "backbone=resnet10"], "use backbone=resnet18 or weights=none"),
        (["weights=coco_v2", "backbone=timm", "backbone.timm_name=resnet10t"], "weights=imagenet for timm"),
        (["experiment=finetune", "weights=none"], "weights=imagenet, or set backbone.norm=batch"),
    ],
)
def test_weights_that_do_not_fit_stop_a_training_before_a_download(
    overrides: list[str], way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(UserError, match=way_out):
        found(*overrides)
    assert found("experiment=finetune", "weights=none", "backbone.norm=batch", "backbone.norm_eps=1e-5") is None


def test_a_backbone_that_nobody_published_is_refused_in_one_line() -> None:
    config = load_config(["weights=imagenet"])
    own = replace(config, backbone=replace(config.backbone, name="own"))
    with pytest.raises(UserError, match="weights=imagenet for backbone=own; use backbone=resnet18 or weights=none"):
        find_weights(own)


def test_a_download_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "served.bin").write_bytes(b"x" * 100_000)
    path = tmp_path / "cache/file.bin"
    download((tmp_path / "served.bin").as_uri(), path)
    assert path.read_bytes() == b"x" * 100_000
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]
    with pytest.raises(ValueError, match="put the file at"):
        download((tmp_path / "gone.bin").as_uri(), tmp_path / "cache/gone.bin")
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]
