"""Which tokens are patches."""

from __future__ import annotations

import pytest
import torch
from explain.small_vision import adapted
from torch import nn

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.explain.grids import patch_grid, to_grid


@pytest.mark.parametrize(
    ("tokens", "height", "width", "expected"),
    [
        (197, 224, 224, (1, 14, 14)),  # ViT-B/16
        (198, 224, 224, (2, 14, 14)),  # DeiT with distillation
        (50, 224, 224, (1, 7, 7)),  # ViT-B/32
        (257, 224, 224, (1, 16, 16)),  # ViT-H/14
        (1374, 518, 518, (5, 37, 37)),  # DINOv2 with registers
        (577, 384, 384, (1, 24, 24)),
        (32 * 16, 128, 64, (0, 32, 16)),
        (18, 16, 16, (2, 4, 4)),
    ],
)
def test_grids_of_known_models(tokens: int, height: int, width: int, expected: tuple[int, int, int]) -> None:
    assert patch_grid(tokens, height, width) == expected


@pytest.mark.parametrize(("tokens", "size"), [(60, 224), (230, 224), (197, 223)])
def test_no_grid(tokens: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"{tokens} tokens are no grid of square patches of a {size} x {size} image"):
        patch_grid(tokens, size, size)


def test_every_kind_of_output() -> None:
    _, adapter = adapted()
    site = adapter.sites[0]
    tokens = torch.arange(2 * 18 * 8.0).reshape(2, 18, 8)
    grid = to_grid(tokens, site, 2, 16, 16)
    assert grid.shape == (2, 8, 4, 4)
    assert torch.equal(grid[1, :, 2, 3], tokens[1, 2 + 2 * 4 + 3])  # row by row, behind the prefix
    channels_last = torch.randn(2, 3, 5, 8)
    assert torch.equal(to_grid(channels_last, site, 2, 16, 16)[1, 4, 2, 3], channels_last[1, 2, 3, 4])
    convolution = inject(nn.Sequential(nn.Conv2d(3, 8, 1)), AdapterConfig(["0"], rank=2)).sites[0]
    y = torch.randn(2, 8, 3, 5)
    assert torch.equal(to_grid(y, convolution, 2, 16, 16), y)
    for wrong in (torch.randn(2, 8), torch.randn(8, 9, 8)):  # one vector an image; windows
        with pytest.raises(ValueError, match=r"as tokens or a grid for every image, and blocks.0.proj gives the shape"):
            to_grid(wrong, site, 2, 16, 16)
