"""A vision transformer small enough for any test, with an adapter that is not zero, and images with masks in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from wegeft_pl import Adapter, AdapterConfig, inject

SIZE = 16


class Block(nn.Module):
    """Attention with an output projection that is called, and a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return x + self.proj(nn.functional.scaled_dot_product_attention(query, key, value))


class SmallViT(nn.Module):
    """Patches of 4 pixels of 16 x 16 images, two prefix tokens, two blocks of width 8, an unused layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.prefix = nn.Parameter(torch.randn(2, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, 3)
        self.unused = nn.Linear(width, width)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def adapted(targets: list[str] | None = None, **fields: Any) -> tuple[SmallViT, Adapter]:
    """The model in eval mode and an adapter whose parameters are drawn anew."""
    torch.manual_seed(0)
    model = SmallViT().eval()
    adapter = inject(model, AdapterConfig(targets or ["proj"], **({"rank": 4, "zero": "psi"} | fields)))
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.normal_(std=0.5)
    return model, adapter


def write_pictures(folder: Path, count: int = 6) -> tuple[Path, Path]:
    """Images with a bright square and trimaps of it: 1 inside, 3 on its upper edge, 2 elsewhere."""
    images, masks = folder / "images", folder / "masks"
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        pixels = torch.randint(0, 60, (24, 20, 3), generator=generator, dtype=torch.uint8)
        labels = torch.full((24, 20), 2, dtype=torch.uint8)
        first = 2 + index
        pixels[first : first + 10, 4:14] += 150
        labels[first : first + 10, 4:14] = 1
        labels[first, 4:14] = 3
        for path, tensor in ((images, pixels), (masks, labels)):
            (path / "a").mkdir(parents=True, exist_ok=True)
            Image.fromarray(tensor.numpy()).save(path / "a" / f"{index}.png")
    return images, masks
