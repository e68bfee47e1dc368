"""Scores of maps against masks, beside NumPy loops and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_jaccard_index

from wegeft_pl.metrics.masks import (
    bootstrap_interval,
    cluster_counts,
    iou,
    labelled_purity,
    object_clusters,
    pointing_hits,
    purity,
)


def drawn(images: int = 4, maps: int = 3, height: int = 7, width: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    regions = torch.rand(images, maps, height, width, generator=generator) > 0.4
    target = torch.rand(images, height, width, generator=generator) > 0.6
    return regions, target, torch.rand(images, height, width, generator=generator) > 0.2


def test_iou_equals_torchmetrics_on_the_valid_pixels() -> None:
    regions, target, valid = drawn()
    found = iou(regions, target, valid)
    assert (found.shape, found.dtype) == ((4, 3), torch.float64)
    for n in range(4):
        for k in range(3):
            labels = torch.where(valid[n], target[n].long(), -1)
            expected = binary_jaccard_index(regions[n, k].long(), labels, ignore_index=-1)
            assert found[n, k].item() == pytest.approx(expected.item(), rel=1e-6)


def test_iou_by_hand() -> None:
    region = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool)[None, None]
    target = torch.tensor([[0, 1, 1], [0, 0, 1]], dtype=torch.bool)[None]
    valid = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)[None]
    assert iou(region, target, torch.ones_like(valid)).item() == 1 / 4
    assert iou(region, target, valid).item() == 1 / 3
    nothing = torch.zeros_like(region)
    assert iou(nothing, target, valid).item() == 0
    assert iou(nothing, torch.zeros_like(target), valid).item() == 1


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3, 20])
def test_pointing_equals_a_loop(tolerance: int) -> None:
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(5, 4, 6, 9, generator=generator)
    target = torch.rand(5, 6, 9, generator=generator) > 0.93
    target[0] = False
    found = pointing_hits(maps, target, tolerance)
    for n in range(5):
        places = np.argwhere(target[n].numpy())
        for k in range(4):
            point = np.array(np.unravel_index(maps[n, k].numpy().argmax(), (6, 9)))
            distances = np.sqrt(((places - point) ** 2).sum(1))
            assert found[n, k].item() == bool((distances <= tolerance).any())
    assert not found[0].any()


def test_purity_by_hand() -> None:
    assignment = torch.tensor([[[0, 0, 0, 1], [1, 1, 2, 2]]])
    target = torch.tensor([[[1, 1, 0, 1], [0, 0, 0, 0]]], dtype=torch.bool)
    valid = torch.tensor([[[1, 1, 1, 1], [1, 1, 1, 0]]], dtype=torch.bool)
    counts = cluster_counts(assignment, target, valid, 4)
    assert counts.tolist() == [[[1, 2], [2, 1], [1, 0], [0, 0]]]
    assert purity(counts).tolist() == [5 / 7]
    assert object_clusters(counts).tolist() == [True, False, False, False]
    assert labelled_purity(counts, torch.tensor([False, False, False, True])).tolist() == [4 / 7]
    assert labelled_purity(counts, object_clusters(counts)).tolist() == purity(counts).tolist()


def test_counts_of_several_images_equal_a_loop() -> None:
    _, target, valid = drawn()
    assignment = torch.randint(0, 3, target.shape, generator=torch.Generator().manual_seed(3))
    counts = cluster_counts(assignment, target, valid, 3)
    for n in range(4):
        for k in range(3):
            for label in (0, 1):
                cell = valid[n] & (assignment[n] == k) & (target[n] == bool(label))
                assert counts[n, k, label].item() == int(cell.sum())


def test_interval_is_that_of_the_mean() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 3 + 1
    low, high = bootstrap_interval(values, num_resamples=4000)
    half = 1.96 * values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - half, abs=0.05)
    assert high == pytest.approx(values.mean().item() + half, abs=0.05)
    narrow = bootstrap_interval(values, level=0.5, num_resamples=4000)
    assert narrow[1] - narrow[0] == pytest.approx(2 * half * 0.6745 / 1.96, rel=0.06)


def test_interval_follows_its_seed_alone() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(7))
    first = bootstrap_interval(values, seed=5)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert bootstrap_interval(values, seed=5) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert bootstrap_interval(values, seed=6) != first


def test_mistakes() -> None:
    regions, target, valid = drawn()
    for wrong in (
        (regions[:3], target, valid),
        (regions, target[:, :3], valid),
        (regions, target, valid[..., :2]),
        (regions[:, 0], target, valid),
    ):
        with pytest.raises(ValueError, match=r"maps \(N, K, H, W\) need masks \(N, H, W\) of the same images and size"):
            iou(*wrong)
    with pytest.raises(ValueError, match="tolerance_pixels must be at least 0, got -1"):
        pointing_hits(regions.float(), target, -1)
    with pytest.raises(ValueError, match="an interval needs values and a level in"):
        bootstrap_interval(torch.empty(0))
    with pytest.raises(ValueError, match=r"got 2 values and 1$"):
        bootstrap_interval(torch.ones(2), level=1)
