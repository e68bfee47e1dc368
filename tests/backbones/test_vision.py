"""timm models by name and by folder, and what happens without a network."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from wegeft_pl import backbones
from wegeft_pl.backbones import classifiers, hub, image_models, vision


def test_a_local_timm_folder_is_a_backbone(timm: ModuleType, tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=4).eval()
    image_models.save(model, tmp_path / "vit", ["a", "b", "c", "d"])
    headless = backbones.build(str(tmp_path / "vit")).eval()
    images = torch.randn(2, 3, 160, 160)
    assert torch.equal(headless(images), model.forward_head(model.forward_features(images), pre_logits=True))
    meta = backbones.build(str(tmp_path / "vit"), meta=True)
    assert {parameter.device.type for parameter in meta.parameters()} == {"meta"}
    assert image_models.normalization(str(tmp_path / "vit")) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"is a timm model, and only Hugging Face models are quantised here"):
        backbones.build(str(tmp_path / "vit"), quantize="bnb-nf4")
    (tmp_path / "vit/model.safetensors").unlink()
    torch.save({"norm.weight": torch.ones(64)}, tmp_path / "vit/model.pth")
    with pytest.raises(ValueError, match=r"vit lacks \S+ \(\d+ missing tensors\); save it again"):
        backbones.build(str(tmp_path / "vit"))


def test_what_is_no_timm_folder(tmp_path: Path, llama_folder: Path) -> None:
    assert not vision.is_timm_folder(tmp_path)
    assert not vision.is_timm_folder(llama_folder)
    (tmp_path / "config.json").write_text("{")
    assert not vision.is_timm_folder(tmp_path)


def test_channels_last_weights_are_saved(timm: ModuleType, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3).eval().to(memory_format=torch.channels_last)
    image_models.save(model, tmp_path / "resnet", None)
    images = torch.randn(1, 3, 160, 160)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'resnet'}", pretrained=True).eval()
    torch.testing.assert_close(loaded(images), model(images))


def test_arguments_that_a_model_does_not_take(timm: ModuleType) -> None:
    with pytest.raises(ValueError, match="'test_nfnet' takes no drop_path_rte; leave it out"):
        vision.create("test_nfnet", pretrained=False, meta=True, drop_path_rte=0.1)
    model = timm.create_model("test_vit", num_classes=0)
    with pytest.raises(ValueError, match="VisionTransformer has no classifier with parameters; choose another model"):
        image_models.heads_of(model)


def test_without_a_network_the_answer_comes_at_once(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot load the weights of 'test_vit': .*\(no network\? give a local file"):
        vision.load("test_vit")
    assert time.monotonic() - started < 5
    assert constants.HF_HUB_OFFLINE is False
    with hub.no_vain_retries("owner/name"):
        assert constants.HF_HUB_OFFLINE is True


def test_nobody_is_asked_for_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_answers", lambda endpoint: pytest.fail("asked"))
    with hub.no_vain_retries(str(tmp_path)):
        assert constants.HF_HUB_OFFLINE is False


def test_a_model_without_a_classifier_in_transformers(llama_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"is a llama model, which transformers has no image classifier for; such as"):
        classifiers.load(str(llama_folder), "image", 3)
    with pytest.raises(ValueError, match=r"\(llama\) takes no drop_path; leave it out"):
        classifiers.load(str(llama_folder), "text", 3, drop_path=0.1)
