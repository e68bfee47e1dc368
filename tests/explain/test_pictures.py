"""Contact sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from explain.small_vision import adapted
from PIL import Image

from wegeft_pl.explain import Masks, draw_layers, layer_grids
from wegeft_pl.explain.pictures import contact_sheet, write_png
from wegeft_pl.explain.required import require


def test_a_sheet_shows_the_regions(tmp_path: Path) -> None:
    images = torch.full((2, 3, 16, 16), 200, dtype=torch.uint8)
    maps = torch.zeros(2, 3, 4, 4)
    maps[:, 0, :2] = 1  # the upper half
    maps[:, 1, :, :2] = 1  # the left half
    maps[:, 2, 3, 3] = 1
    sheet = contact_sheet(images, maps, "title", [0, 1], cell_pixels=40)
    assert (sheet.shape[1:], sheet.dtype) == ((4 * 40, 3), torch.uint8)
    title = sheet.shape[0] - 2 * 40
    assert 33 <= title <= 34  # versions of matplotlib round it up or down
    blue = sheet[title:, :, 2].float()  # the tint has none, the darkened image some, the image most

    def middle(row: int, column: int) -> float:
        return blue[row - 3 : row + 3, column - 3 : column + 3].mean().item()

    assert middle(20, 20) == pytest.approx(200, abs=3)
    upper, lower = middle(10, 60), middle(32, 60)
    left, right = middle(20, 90), middle(20, 112)
    assert upper == pytest.approx(0.55 * 200, abs=12)
    assert lower == pytest.approx(0.25 * 200, abs=12)
    assert (left, right) == (pytest.approx(upper, abs=3), pytest.approx(lower, abs=3))
    write_png(sheet, tmp_path / "new" / "sheet.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new/sheet.png")), sheet.numpy())


def test_the_outline_of_the_object_is_drawn() -> None:
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    target = torch.zeros(2, 16, 16, dtype=torch.bool)
    target[0, 4:12, 4:12] = True  # the second image has no object
    sheet = contact_sheet(images, torch.randn(2, 1, 4, 4), "", target_NHW=target, cell_pixels=60)
    green = (sheet[..., 1] > 150) & (sheet[..., 0] < 100)
    assert green[34:94, :60].any()
    assert not green[94:, :60].any()


def test_a_file_for_every_layer(tmp_path: Path) -> None:
    model, adapter = adapted(["proj", "qkv"])
    images = torch.randint(0, 255, (5, 3, 16, 16), dtype=torch.uint8)
    grids = layer_grids(model, adapter.sites, images.float() / 255)
    masks = Masks(torch.rand(5, 16, 16) > 0.5, torch.ones(5, 16, 16, dtype=torch.bool))
    sheets = draw_layers(adapter.sites, grids, images, tmp_path, num_images=3, num_maps=2, masks=masks)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(sheets)
    assert set(sheets) == {"blocks.0.proj", "blocks.1.proj", "blocks.0.qkv", "blocks.1.qkv"}
    assert sheets["blocks.0.qkv"].shape == (3 * 72 + 34, 4 * 72, 3)
    with pytest.raises(ValueError, match="num_maps must be at least 1, got 0"):
        draw_layers(adapter.sites, grids, images, tmp_path, num_maps=0)


def test_a_missing_library_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match=r'no_such_library is not installed .* pip install "wegeft-pl\[explain\]"'):
        require("no_such_library")
