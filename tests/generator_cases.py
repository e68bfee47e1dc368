"""Every generator with the options that its tests run over, and the means to look inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wegeft_pl.generators import (
    GELUGenerator,
    Generator,
    GIFTGenerator,
    LinearGenerator,
    MixerGenerator,
    MLPGenerator,
    PaCaGenerator,
    SigmoidGenerator,
    TransformerGenerator,
)

#: Class, and options small enough for the tests' layers.
HIDDEN: list[tuple[type[Generator], dict[str, Any]]] = [
    (SigmoidGenerator, {}),
    (GELUGenerator, {}),
    (MLPGenerator, {"norm": "layer"}),
    (MixerGenerator, {"hidden_tokens": 5}),
    (TransformerGenerator, {"heads": 2, "depth": 2}),
    (PaCaGenerator, {"clusters": 3}),
    (PaCaGenerator, {"clusters": 3, "assignment": "softmax", "norm": "none"}),
    (GIFTGenerator, {"clusters": 3}),
    (GIFTGenerator, {"attention": "full", "bias": True}),
]
EVERY: list[tuple[type[Generator], dict[str, Any]]] = [(LinearGenerator, {}), *HIDDEN]


def name_of(case: object) -> str | None:
    """A parameter's name in pytest's listing."""
    if isinstance(case, type):
        return case.__name__
    return "-".join(f"{name}={value}" for name, value in case.items()) if isinstance(case, dict) else None


def filled(generator: nn.Module, std: float = 0.5) -> Any:
    """The generator in float64 with every parameter drawn anew, none of them zero."""
    generator.double()
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=std)
    return generator


def array(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


def arrays(module: nn.Module) -> dict[str, NDArray[np.float64]]:
    """All parameters by name."""
    return {name: array(parameter) for name, parameter in module.named_parameters()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TinyViT(nn.Module):
    """A vision transformer in timm's names: 2 blocks of width 8, one head, no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.ModuleList(TinyViTBlock() for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=1))


class TinyViTBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)})
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.attn["qkv"](x).chunk(3, dim=-1)
        x = x + self.attn["proj"](nn.functional.scaled_dot_product_attention(query, key, value))
        return x + self.mlp(x)
