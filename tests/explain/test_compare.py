"""Learned maps beside random ones, k-means, and what knows no layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explain.small_vision import adapted
from explain.test_scores import square_masks
from sklearn.cluster import KMeans

from wegeft_pl.explain import Masks, cluster_directions, compare_layer, compare_nothing, maps_of
from wegeft_pl.explain.baselines import centre_map, k_means, k_means_each, one_hot


def object_grid(masks: Masks, width: int = 8) -> torch.Tensor:
    """Tokens of one direction on the object and another off it, with noise and lengths of their own."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(2, width, generator=generator)
    noise = 0.05 * torch.randn(len(masks.target), width, 16, 16, generator=generator)
    length = torch.rand(len(masks.target), 1, 16, 16, generator=generator) * 10 + 0.1
    return length * (torch.where(masks.target[:, None], ends[0][:, None, None], ends[1][:, None, None]) + noise)


def test_a_layer_that_knows_the_object() -> None:
    masks = square_masks(8)
    _, adapter = adapted()
    site = adapter.sites[0]
    grid = object_grid(masks)
    found = compare_layer(site, grid, masks, num_draws=2, tolerance_pixels=0)
    assert list(found) == ["learned", "random phi", "k-means, K maps", "2-means"]
    assert found["2-means"].miou.mean == 1
    assert found["2-means"].purity.mean == 1
    assert found["2-means"].pointing.mean == 1
    assert found["k-means, K maps"].purity.mean == 1  # more clusters split what is pure
    assert found["learned"] != found["random phi"]


def test_learned_maps_are_the_adapters() -> None:
    masks = square_masks(4)
    _, adapter = adapted()
    site = adapter.sites[0]
    # Tokens whose first map is the mask exactly.
    directions = cluster_directions(site)
    grid = torch.linalg.pinv(directions)[:, 0][:, None, None] * masks.target[:, None]
    grid = grid + 1e-4 * torch.randn(grid.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(maps_of(grid, directions)[:, 0], masks.target.float(), atol=1e-2, rtol=0)
    assert compare_layer(site, grid, masks, num_draws=1)["learned"].miou.mean == 1


def test_k_means_is_scikit_learns_on_unit_tokens_of_the_chosen_images() -> None:
    masks = square_masks(4)
    grid = object_grid(masks)
    chosen = torch.tensor([True, False, False, True])
    near = k_means(grid, chosen, 3)
    assert near.shape == (4, 3, 16, 16)
    tokens = grid.permute(0, 2, 3, 1).flatten(1, 2).double().numpy()
    tokens = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    reference = KMeans(3, n_init=20, random_state=1).fit(np.concatenate([tokens[0], tokens[3]]))
    inertia = -near.flatten(2).amax(1)[chosen].sum().item()
    assert inertia <= 1.05 * reference.inertia_
    each = k_means_each(grid, 2)
    for index in range(4):
        split = KMeans(2, n_init=3, random_state=0).fit_predict(tokens[index])
        same = (each[index].argmax(0).flatten().numpy() == split).mean()
        assert same in (0, 1)


def test_one_hot_and_centre() -> None:
    maps = torch.tensor([[[[1.0, 5.0]], [[2.0, 3.0]]]])
    assert one_hot(maps).tolist() == [[[[0.0, 1.0]], [[1.0, 0.0]]]]
    centre = centre_map(2, 5, 7)
    assert centre.shape == (2, 1, 5, 7)
    assert centre[1, 0].argmax() == 2 * 7 + 3
    assert centre[0, 0, 0, 0].item() == pytest.approx(-(13**0.5))


def test_nothing() -> None:
    masks = square_masks(6)
    found = compare_nothing(masks, 0)
    assert found["whole image"].miou.mean == 64 / 256
    assert found["whole image"].purity.mean == 1 - 64 / 256
    rows, columns = np.mgrid[:16, :16] - 7.5
    distance = np.hypot(rows, columns)
    # Stretched between the four middle pixels and the corners.
    disc = distance < (distance.min() + distance.max()) / 2
    expected = [(masks.target[n].numpy() & disc).sum() / (masks.target[n].numpy() | disc).sum() for n in (1, 3, 5)]
    assert found["centre"].miou.mean == np.mean(expected)
