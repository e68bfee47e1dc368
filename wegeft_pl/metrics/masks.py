"""Scores of maps against object masks: pure functions, one number an image and map, and a bootstrap interval.

Shapes: N images, K maps (or clusters), H height, W width in pixels. Masks are two: ``target``, true on the object, and
``valid``, true where a pixel counts at all (a trimap's border does not).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def iou(regions_NKHW: Tensor, target_NHW: Tensor, valid_NHW: Tensor) -> Tensor:  # noqa: N803
    """Intersection over union of every region with its image's object.

    torchmetrics' Jaccard index pools a batch into one number; here every image and map keeps its own.

    Args:
        regions_NKHW: bool.
        target_NHW: bool, true on the object.
        valid_NHW: bool, true where a pixel counts.

    Returns:
        (N, K) float64; 1 where region and object are both empty.

    Raises:
        ValueError: the shapes do not fit each other.

    Example:
        >>> region = torch.tensor([[[[True, True], [False, False]]]])
        >>> target = torch.tensor([[[True, False], [True, False]]])
        >>> round(iou(region, target, torch.ones_like(target)).item(), 3)
        0.333

    Source: METHOD.md section 5.
    """
    _check(regions_NKHW, target_NHW, valid_NHW)
    regions = (regions_NKHW & valid_NHW[:, None]).flatten(2).float()  # counts below 2**24 are exact
    target = (target_NHW & valid_NHW).flatten(1).float()
    inside = torch.einsum("nkp,np->nk", regions, target).double()
    union = regions.sum(2).double() + target.sum(1).double()[:, None] - inside
    return torch.where(union > 0, inside / union.clamp(min=1), 1.0)


def pointing_hits(maps_NKHW: Tensor, target_NHW: Tensor, tolerance_pixels: int = 15) -> Tensor:  # noqa: N803
    """The pointing game: whether a map's highest pixel lies on the object, or at most so many pixels away from it.

    Args:
        maps_NKHW: floating point; of several highest pixels the first in reading order counts.
        target_NHW: bool, true on the object.
        tolerance_pixels: largest Euclidean distance to an object pixel that is still a hit; 15 is the game's own.

    Returns:
        (N, K) bool.

    Raises:
        ValueError: the shapes do not fit each other, or the tolerance is negative.

    Example:
        >>> maps = torch.tensor([[[[0.0, 0.0, 9.0]], [[9.0, 0.0, 0.0]]]])
        >>> target = torch.tensor([[[True, False, False]]])
        >>> pointing_hits(maps, target, 0).tolist(), pointing_hits(maps, target, 2).tolist()
        ([[False, True]], [[True, True]])
    """
    _check(maps_NKHW, target_NHW, target_NHW)
    if tolerance_pixels < 0:
        raise ValueError(f"tolerance_pixels must be at least 0, got {tolerance_pixels}")
    width, reach = maps_NKHW.shape[3], tolerance_pixels
    highest = maps_NKHW.flatten(2).argmax(2)
    steps = torch.arange(-reach, reach + 1, device=maps_NKHW.device)
    disc = (steps[:, None] ** 2 + steps[None] ** 2 <= reach**2).nonzero() - reach  # (D, 2)
    # Indices below are into the padded mask, so that a disc may reach over the edge.
    padded = F.pad(target_NHW, (reach, reach, reach, reach))
    rows = highest.div(width, rounding_mode="floor")[..., None] + disc[:, 0] + reach
    columns = (highest % width)[..., None] + disc[:, 1] + reach
    images = torch.arange(len(target_NHW), device=maps_NKHW.device)[:, None, None]
    return padded[images, rows, columns].any(dim=2)


def cluster_counts(assignment_NHW: Tensor, target_NHW: Tensor, valid_NHW: Tensor, num_clusters: int) -> Tensor:  # noqa: N803
    """How many valid pixels of background and of object every cluster holds.

    Args:
        assignment_NHW: int64 in [0, num_clusters).
        target_NHW: bool, true on the object.
        valid_NHW: bool, true where a pixel counts.
        num_clusters: K.

    Returns:
        (N, K, 2) int64: background, object.

    Example:
        >>> target = torch.tensor([[[True, True, False]]])
        >>> cluster_counts(torch.tensor([[[0, 1, 1]]]), target, torch.ones_like(target), 2).tolist()
        [[[0, 1], [1, 1]]]
    """
    _check(assignment_NHW[:, None], target_NHW, valid_NHW)
    images = torch.arange(len(assignment_NHW), device=assignment_NHW.device)[:, None, None]
    cell = ((images * num_clusters + assignment_NHW) * 2 + target_NHW)[valid_NHW]
    return torch.bincount(cell, minlength=len(assignment_NHW) * num_clusters * 2).reshape(-1, num_clusters, 2)


def purity(counts_NK2: Tensor) -> Tensor:  # noqa: N803
    """Cluster purity: the share of an image's pixels that are of their cluster's majority in that image.

    Never below the larger of the object's and the background's share, and it grows with the number of clusters.

    Args:
        counts_NK2: from :func:`cluster_counts`.

    Returns:
        (N,) float64.

    Example:
        >>> purity(torch.tensor([[[3, 1], [0, 4]]])).item()
        0.875
    """
    return counts_NK2.amax(2).sum(1).double() / counts_NK2.sum((1, 2)).double()


def object_clusters(counts_NK2: Tensor) -> Tensor:  # noqa: N803
    """Which clusters hold more object than background over all images together.

    Args:
        counts_NK2: from :func:`cluster_counts`.

    Returns:
        (K,) bool.

    Example:
        >>> object_clusters(torch.tensor([[[3, 1], [0, 4]], [[2, 5], [0, 0]]])).tolist()
        [True, True]
    """
    total = counts_NK2.sum(0)
    return total[:, 1] > total[:, 0]


def labelled_purity(counts_NK2: Tensor, is_object_K: Tensor) -> Tensor:  # noqa: N803
    """The share of an image's pixels that are what their cluster was said to be on other images.

    Args:
        counts_NK2: from :func:`cluster_counts`.
        is_object_K: bool, from :func:`object_clusters` on other images.

    Returns:
        (N,) float64.

    Example:
        >>> labelled_purity(torch.tensor([[[3, 1], [0, 4]]]), torch.tensor([True, True])).item()
        0.625
    """
    right = torch.where(is_object_K, counts_NK2[..., 1], counts_NK2[..., 0])
    return right.sum(1).double() / counts_NK2.sum((1, 2)).double()


def bootstrap_interval(
    values_N: Tensor,  # noqa: N803
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over images.

    Args:
        values_N: one value an image.
        level: share of resampled means that lie within.
        num_resamples: how many times the images are drawn anew, with replacement.
        seed: of the draws.

    Returns:
        The lower and upper end.

    Raises:
        ValueError: there is no value, or the level lies outside (0, 1).

    Example:
        >>> bootstrap_interval(torch.tensor([0.5, 0.5, 0.5]))
        (0.5, 0.5)
    """
    if not len(values_N) or not 0 < level < 1:
        raise ValueError(f"an interval needs values and a level in (0, 1), got {len(values_N)} values and {level}")
    draws = torch.randint(len(values_N), (num_resamples, len(values_N)), generator=torch.Generator().manual_seed(seed))
    means = values_N.double().cpu()[draws].mean(1)
    ends = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return ends[0].item(), ends[1].item()


def _check(maps_NKHW: Tensor, target_NHW: Tensor, valid_NHW: Tensor) -> None:  # noqa: N803
    shapes = [tuple(tensor.shape) for tensor in (maps_NKHW, target_NHW, valid_NHW)]
    if len(shapes[0]) != 4 or shapes[1] != (shapes[0][0], *shapes[0][2:]) or shapes[2] != shapes[1]:
        raise ValueError(f"maps (N, K, H, W) need masks (N, H, W) of the same images and size, got {shapes}")
