"""Maps: products, interpolation, stretching, segmentation."""

from __future__ import annotations

import numpy as np
import torch
from explain.small_vision import adapted
from generator_cases import array
from PIL import Image

from wegeft_pl.explain import cluster_directions, layer_grids, maps_of, min_max, segment, strongest, upsample


def test_maps_are_y_c() -> None:
    model, adapter = adapted()
    images = torch.randn(5, 3, 16, 16)
    kept = []
    model.blocks[1].proj.register_forward_hook(lambda module, args, y: kept.append(y.detach()))
    with torch.no_grad():
        model(images)
    grids = layer_grids(model, adapter.sites, images, batch_size=2)
    site = adapter.sites[1]
    assert grids[site.name].shape == (5, 8, 4, 4)
    found = maps_of(grids[site.name], cluster_directions(site))
    weight, phi = array(site.module.get_parameter("weight")), array(site.generator.phi)
    expected = array(kept[0])[:, 2:] @ (weight @ phi)  # (5, 16, 4), the two prefix tokens dropped
    np.testing.assert_allclose(array(found), expected.transpose(0, 2, 1).reshape(5, 4, 4, 4), atol=1e-5)


def test_interpolation_is_pillows() -> None:
    maps = torch.rand(1, 1, 4, 6)
    found = upsample(maps, 20, 24)[0, 0].numpy()
    expected = Image.fromarray(maps[0, 0].numpy()).resize((24, 20), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-6)


def test_stretching_ignores_scale_and_segmentation_its_length() -> None:
    maps = torch.randn(3, 4, 5, 5)
    scaled = maps * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None, None] + 7
    torch.testing.assert_close(min_max(maps), min_max(scaled), atol=1e-5, rtol=1e-4)
    assert min_max(maps).amin((2, 3)).eq(0).all()
    assert min_max(maps).amax((2, 3)).eq(1).all()
    assert torch.equal(segment(min_max(maps)), min_max(maps).argmax(1))
    assert min_max(torch.full((1, 1, 2, 2), 3.0)).eq(0).all()


def test_strongest_ignores_length() -> None:
    flat = 100 + torch.randn(4, 1, 3, 3)
    lively = 0.01 * torch.randn(4, 2, 3, 3)
    maps = torch.cat([lively[:, :1], flat, lively[:, 1:]], 1)
    assert strongest(maps, 2) == [0, 2]
    assert strongest(maps, 9) == [0, 1, 2]
