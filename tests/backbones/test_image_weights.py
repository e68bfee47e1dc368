"""Weights of image models from files: wrappers, other classifiers, and every fault by its name."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wegeft_pl.backbones import image_models
from wegeft_pl.backbones.image_weights import read_state, weight_file


@pytest.fixture
def model(timm: ModuleType) -> nn.Module:
    torch.manual_seed(4)
    return timm.create_model("test_vit", num_classes=7).eval()


def load(path: Path, num_classes: int = 7, **fields: Any) -> tuple[nn.Module, list[str]]:
    return image_models.load("test_vit", num_classes, weights=str(path), **fields)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": OrderedDict((f"module.model.{name}", value) for name, value in state.items())},
    ],
)
@pytest.mark.parametrize("ending", ["pth", "pt", "bin", "pth.tar"])
def test_wrapped_state_dicts(model: nn.Module, tmp_path: Path, wrap: Callable[[dict], dict], ending: str) -> None:
    path = tmp_path / f"weights.{ending}"
    torch.save(wrap(model.state_dict()), path)
    loaded, notes = load(path)
    assert notes == []
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_folder_with_one_file_and_an_average(model: nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save({"state_dict": other, "state_dict_ema": state}, tmp_path / "last.pth.tar")
    loaded, notes = load(tmp_path)
    assert notes == [f"{tmp_path / 'last.pth.tar'}: read state_dict_ema, the average of its weights"]
    assert torch.equal(loaded.get_parameter("head.weight"), state["head.weight"])
    save_file(state, tmp_path / "model.safetensors")
    assert weight_file(tmp_path) == tmp_path / "model.safetensors"


def test_a_classifier_of_another_size_is_left_out_and_said(model: nn.Module, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded, notes = load(tmp_path / "w.safetensors", 5)
    assert notes == [
        f"{tmp_path / 'w.safetensors'} has a classifier of 7 classes, which is left out; head starts anew with 5"
    ]
    assert torch.equal(loaded.get_parameter("norm.weight"), model.get_parameter("norm.weight"))
    assert loaded.get_parameter("head.weight").shape[0] == 5
    zero, _ = load(tmp_path / "w.safetensors", 7, head_init="zero")
    assert not zero.get_parameter("head.weight").any()
    headless = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    save_file(headless, tmp_path / "bare.safetensors")
    _, notes = load(tmp_path / "bare.safetensors")
    assert notes == [f"{tmp_path / 'bare.safetensors'} has no classifier; head starts anew with 7"]


class Secret:
    """Not a plain type."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.weight"), "lacks norm.weight; name the backbone that these weights belong to"),
        (
            lambda s: s.update({f"x{n}": torch.ones(1) for n in range(5)}),
            "has x0, x1, x2 and 2 more, which the model has not",
        ),
        (lambda s: s.update({"norm.weight": torch.ones(3)}), r"norm.weight has shape \(3,\), the model's is \(64,\)"),
        (lambda s: s["norm.weight"].fill_(float("nan")), "norm.weight holds NaN or infinite values"),
    ],
)
def test_what_does_not_fit_is_named(
    model: nn.Module, tmp_path: Path, change: Callable[[dict], Any], message: str
) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "w.pth")


def test_files_that_are_none(tmp_path: Path, timm: ModuleType) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*absent; null means the hub's, random means none"):
        weight_file(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"holds no .safetensors, .pth, .pt, .bin, .tar file; give the file"):
        weight_file(tmp_path)
    (tmp_path / "w.txt").write_text("x")
    with pytest.raises(ValueError, match=r"has the ending '.txt', expected one of .safetensors"):
        weight_file(tmp_path / "w.txt")
    (tmp_path / "w.pth").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"w.pth is truncated or no torch file \(\w+\); copy it again"):
        read_state(tmp_path / "w.pth")
    torch.save({"args": Secret()}, tmp_path / "s.pth")
    with pytest.raises(ValueError, match=r"holds a \S*Secret, and nothing but tensors and plain types is read"):
        read_state(tmp_path / "s.pth")
    torch.save([1], tmp_path / "l.pth")
    with pytest.raises(ValueError, match=r"holds a list; save the model's state_dict\(\)"):
        read_state(tmp_path / "l.pth")
    torch.save({"epoch": 1}, tmp_path / "e.pth")
    with pytest.raises(ValueError, match=r"holds no state dict \(keys: epoch\)"):
        read_state(tmp_path / "e.pth")
    with pytest.raises(ValueError, match=r"holds 4 files of weights \(e.pth, l.pth, s.pth, w.pth\); give the file its"):
        weight_file(tmp_path)


def test_the_real_vit(shared: Path, timm: ModuleType) -> None:
    loaded, notes = image_models.load(
        "vit_tiny_patch16_224", 1000, weights=str(shared / "weights/vit_tiny_patch16_224")
    )
    assert notes == []
    assert image_models.heads_of(loaded) == ["head"]
