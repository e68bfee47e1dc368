"""Choosing maps on some images and scoring them on others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from wegeft_pl.explain import Masks, every_other, score_images, summarise
from wegeft_pl.explain.scores import CHUNK, Estimate, ImageScores


def square_masks(images: int, size: int = 16) -> Masks:
    target = torch.zeros(images, size, size, dtype=torch.bool)
    for index in range(images):
        target[index, index % 6 : index % 6 + 8, 4:12] = True
    return Masks(target, torch.ones_like(target))


def test_a_map_that_is_the_mask_scores_one() -> None:
    masks = square_masks(CHUNK + 3)  # more than one piece
    noise = torch.randn(len(masks.target), 2, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = torch.cat([noise[:, :1], 3 * masks.target[:, None].float() - 7, noise[:, 1:]], 1)
    scores = score_images(maps, masks, 0)
    assert scores.iou.shape == (CHUNK + 3, 6)
    assert scores.iou[:, 1].eq(1).all()
    assert scores.pointing[:, 1].eq(1).all()
    # The negative is its complement.
    complement = (~masks.target).flatten(1).sum(1)
    assert scores.iou[:, 4].eq(0).all()
    assert scores.counts.sum((1, 2)).eq(256).all()
    assert complement.gt(0).all()
    found = summarise([scores], every_other(len(maps)))
    assert (found.candidate, found.miou.mean, found.miou.low, found.miou_best.mean) == (1, 1.0, 1.0, 1.0)
    upside_down = summarise([score_images(-maps, masks, 0)], every_other(len(maps)))
    assert (upside_down.candidate, upside_down.miou.mean, upside_down.pointing.mean) == (4, 1.0, 1.0)


def test_negatives_equal_negated_maps() -> None:
    masks = square_masks(5)
    maps = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    once, negated = score_images(maps, masks, 1), score_images(-maps, masks, 1)
    assert torch.equal(once.iou[:, 3:], negated.iou[:, :3])
    assert torch.equal(once.pointing[:, 3:], negated.pointing[:, :3])


def test_regions_are_cut_and_maps_point() -> None:
    masks = square_masks(4)
    regions = torch.stack([masks.target, ~masks.target], 1).float()
    maps = torch.zeros(4, 2, 16, 16)
    maps[:, 0, 15, 15] = 1
    scores = score_images(maps, masks, 0, regions)
    assert scores.iou[:, 0].eq(1).all()
    assert scores.pointing[:, 0].eq(0).all()
    assert scores.counts[:, 0, 1].eq(64).all()
    assert scores.counts[:, 1, 0].eq(256 - 64).all()


def table(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_summary_by_hand() -> None:
    chosen = torch.tensor([True, True, False, False])
    overlaps = table([[0.5, 0.2], [0.4, 0.6], [0.1, 0.9], [0.3, 0.2]])  # chosen by 0.45 against 0.4
    pointing = table([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    counts = torch.tensor([[[1, 3]], [[3, 2]], [[1, 1]], [[4, 0]]])  # 4 background, 5 object: an object cluster
    found = summarise([ImageScores(overlaps, pointing, counts)], chosen)
    means = {name: value["mean"] for name, value in found.to_dict().items() if isinstance(value, dict)}
    assert means == {
        "miou": pytest.approx(0.2),
        "miou_best": pytest.approx(0.6),
        "pointing": 0.5,
        "pointing_best": 1.0,
        "purity": 0.25,
        "purity_best": 0.75,
    }
    assert found.candidate == 0
    json.dumps(found.to_dict())
    # A second draw chooses for itself, and images are averaged over the draws before the interval.
    other = ImageScores(1 - overlaps, pointing, counts)  # chosen by 0.6
    both = summarise([ImageScores(overlaps, pointing, counts), other], chosen)
    assert both.miou.mean == pytest.approx(np.mean([(0.1 + 0.1) / 2, (0.3 + 0.8) / 2]))
    assert both.miou.low == pytest.approx(0.1)
    assert both.miou.high == pytest.approx(0.55)


def test_the_scored_images_do_not_choose() -> None:
    chosen = every_other(6)
    overlaps = torch.rand(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    counts = torch.ones(6, 2, 2, dtype=torch.int64)
    first = summarise([ImageScores(overlaps, overlaps, counts)], chosen).candidate
    for candidate in range(4):
        overlaps[~chosen] = 0
        overlaps[~chosen, candidate] = 1
        assert summarise([ImageScores(overlaps, overlaps, counts)], chosen).candidate == first


def test_one_image_is_too_few() -> None:
    scores = ImageScores(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"scores need at least 2 images, .* got 1"):
        summarise([scores], every_other(1))
    assert Estimate.of(torch.tensor([1.0, 1.0])) == Estimate(1.0, 1.0, 1.0)
