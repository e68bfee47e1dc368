"""Checkpoints as the authors' vision wrapper writes them, made up, and its formula in NumPy float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wegeft_pl.adapter import Adapter, adapter_of, import_reference, merge

KEY = "attn:proj"


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.qkv(x)[..., : x.shape[-1]])


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = Attention(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp["fc2"](self.mlp["fc1"](x))


class Vit(nn.Module):
    """Names as timm's: patch_embed.proj, which no key may hit, and blocks."""

    def __init__(self, width: int = 12, depth: int = 3) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 2, 2)})
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def projections(key: str = KEY, width: int = 12, rank: int = 4) -> dict[str, Tensor]:
    return {
        f"in_projections.{key}.weight": torch.randn(rank, width),
        f"out_projections.{key}.weight": torch.randn(width, rank),
    }


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def vision_weight(W: Tensor, state: dict[str, Tensor], key: str = KEY) -> np.ndarray:
    """W + Linear_out(Linear_in(W)), row by row as their wrapper computes it."""
    down, up = array(state[f"in_projections.{key}.weight"]), array(state[f"out_projections.{key}.weight"])
    weight = array(W)
    return np.stack([row + up @ (down @ row) for row in weight])


def merged(model: nn.Module, adapter: Adapter, names: list[str]) -> dict[str, np.ndarray]:
    model.double()
    merge(model, adapter)
    return {name: array(model.get_submodule(name).weight) for name in names}


def bad(tmp_path: Path, content: Any, match: str, **arguments: Any) -> None:
    model = Vit()
    with pytest.raises(ValueError, match=match):
        import_reference(save(content, tmp_path / "last.pth.tar"), model, **arguments)
    assert adapter_of(model) is None
    assert all(parameter.requires_grad for parameter in model.parameters())
