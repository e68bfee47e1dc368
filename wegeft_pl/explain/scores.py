"""How well maps find the object: one map that was chosen on other images, and each image's own best.

Shapes: N images, K maps, h and w a layer's grid, H and W pixels. A candidate is a map or its negative, because phi and
-phi are the same adapter: candidates 0 to K - 1 are the maps, K to 2K - 1 their negatives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wegeft_pl.explain.images import Masks
from wegeft_pl.explain.maps import min_max, segment, upsample
from wegeft_pl.metrics.masks import (
    bootstrap_interval,
    cluster_counts,
    iou,
    labelled_purity,
    object_clusters,
    pointing_hits,
    purity,
)

#: Images that are held at their full size at once.
CHUNK = 32


@dataclass(frozen=True)
class ImageScores:
    """Scores of every candidate on every image.

    Args:
        iou: (N, 2K) float64, of the region where the stretched map exceeds one half.
        pointing: (N, 2K) float64, 1 for a hit of the highest pixel, else 0.
        counts: (N, K, 2) int64, pixels of background and object in every cluster of the K-way segmentation.
    """

    iou: Tensor
    pointing: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % percentile bootstrap interval.

    Args:
        mean: the mean.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values_N: Tensor) -> Estimate:  # noqa: N803
        """The estimate from one value an image."""
        return cls(values_N.double().mean().item(), *bootstrap_interval(values_N))


@dataclass(frozen=True)
class Scores:
    """What the maps of one layer score on images that nothing was chosen on.

    Args:
        miou: mean IoU of the one candidate that had the highest mean IoU on the other images.
        miou_best: mean IoU of each image's best candidate, which only the mask can tell.
        pointing: share of hits of the one candidate that hit most often on the other images.
        pointing_best: share of images where any candidate hits.
        purity: share of pixels that are what their cluster mostly was on the other images.
        purity_best: share of pixels that are what their cluster mostly is in the image itself.
        candidate: the one of ``miou``, of the first draw.
    """

    miou: Estimate
    miou_best: Estimate
    pointing: Estimate
    pointing_best: Estimate
    purity: Estimate
    purity_best: Estimate
    candidate: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)


def score_images(
    maps_NKhw: Tensor,  # noqa: N803
    masks: Masks,
    tolerance_pixels: int = 15,
    regions_NKhw: Tensor | None = None,  # noqa: N803
) -> ImageScores:
    """Scores every map on every image, at the masks' size.

    Args:
        maps_NKhw: of any scale.
        masks: of the same images.
        tolerance_pixels: of the pointing game.
        regions_NKhw: what to cut and to segment in place of the maps, which then serve the pointing game alone: a
            clustering's regions as zeros and ones.

    Raises:
        ValueError: the masks are of another number of images.
    """
    height, width = masks.target.shape[1:]
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(0, len(maps_NKhw), CHUNK):
        part = slice(first, first + CHUNK)
        target, valid = masks.target[part], masks.valid[part]
        maps = upsample(maps_NKhw[part], height, width)
        cut = maps if regions_NKhw is None else upsample(regions_NKhw[part], height, width)
        stretched = min_max(cut)
        regions = stretched > 0.5
        hits = torch.cat([pointing_hits(sign * maps, target, tolerance_pixels) for sign in (1, -1)], 1)
        parts.append(
            (
                torch.cat([iou(regions, target, valid), iou(~regions, target, valid)], 1),
                hits.double(),
                cluster_counts(segment(stretched), target, valid, maps.shape[1]),
            )
        )
    overlaps, pointing, counts = (torch.cat(column) for column in zip(*parts, strict=True))
    return ImageScores(overlaps, pointing, counts)


def every_other(num_images: int) -> Tensor:
    """The images to choose maps on: every second one, (N,) bool; the others are scored.

    Example:
        >>> every_other(5).tolist()
        [True, False, True, False, True]
    """
    return torch.arange(num_images) % 2 == 0


def summarise(draws: Sequence[ImageScores], chosen_on_N: Tensor) -> Scores:  # noqa: N803
    """Chooses candidates on some images and scores them on the others.

    Args:
        draws: the scores of the maps; several where they come from random directions: each draw chooses for itself, and
            the draws are averaged within each image, so that the interval is over images.
        chosen_on_N: bool, true for the images to choose on.

    Raises:
        ValueError: there is no image to choose on, or none to score.
    """
    others = ~chosen_on_N
    if not chosen_on_N.any() or not others.any():
        raise ValueError(
            f"scores need at least 2 images, some to choose a map on and some to score it, got {len(chosen_on_N)}"
        )
    columns: dict[str, list[Tensor]] = {field: [] for field in _FIELDS}
    candidates = []
    for draw in draws:
        for field, scores in (("miou", draw.iou), ("pointing", draw.pointing)):
            best = int(scores[chosen_on_N].mean(0).argmax())
            columns[field].append(scores[others, best])
            columns[f"{field}_best"].append(scores[others].amax(1))
            if field == "miou":
                candidates.append(best)
        is_object = object_clusters(draw.counts[chosen_on_N])
        columns["purity"].append(labelled_purity(draw.counts[others], is_object))
        columns["purity_best"].append(purity(draw.counts[others]))
    estimates = {field: Estimate.of(torch.stack(values).mean(0)) for field, values in columns.items()}
    return Scores(**estimates, candidate=candidates[0])


_FIELDS = ("miou", "miou_best", "pointing", "pointing_best", "purity", "purity_best")
