"""What cluster maps are measured against: k-means on the same tokens, the whole image, the centre.

Shapes: N images, O out features, K clusters, h and w a layer's grid.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wegeft_pl.explain.required import require


def k_means(grid_NOhw: Tensor, fit_on_N: Tensor, num_clusters: int, seed: int = 0, num_tokens: int = 20_000) -> Tensor:  # noqa: N803
    """k-means on tokens of unit length, one set of centres for all images.

    Of unit length, because a few tokens of a vision transformer are so long that they would be clusters by themselves.

    Args:
        grid_NOhw: a layer's output.
        fit_on_N: bool, the images whose tokens the centres are found on.
        num_clusters: K.
        seed: of the start and of the choice of tokens.
        num_tokens: of at most so many tokens, drawn at random.

    Returns:
        (N, K, h, w): minus the squared distance of each token to each centre; the highest is the token's cluster.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    tokens = F.normalize(grid_NOhw, dim=1).permute(0, 2, 3, 1)
    known = tokens[fit_on_N].flatten(0, 2)
    generator = torch.Generator().manual_seed(seed)
    known = known[torch.randperm(len(known), generator=generator)[:num_tokens]]
    centres_KO = torch.from_numpy(_fit(known, num_clusters, seed).cluster_centers_).to(tokens)  # noqa: N806
    distances = torch.cdist(tokens.flatten(1, 2), centres_KO).square()
    return -distances.transpose(1, 2).unflatten(2, grid_NOhw.shape[2:])


def k_means_each(grid_NOhw: Tensor, num_clusters: int = 2, seed: int = 0) -> Tensor:  # noqa: N803
    """The same with centres of each image's own, so that clusters of two images have nothing in common.

    Returns:
        (N, K, h, w).
    """
    one = torch.ones(1, dtype=torch.bool)
    return torch.cat([k_means(image[None], one, num_clusters, seed) for image in grid_NOhw])


def one_hot(maps_NKhw: Tensor) -> Tensor:  # noqa: N803
    """Every place's highest map as 1, the others as 0: a clustering as K regions."""
    return F.one_hot(maps_NKhw.argmax(1), maps_NKhw.shape[1]).permute(0, 3, 1, 2).float()


def centre_map(num_images: int, height: int, width: int) -> Tensor:
    """One map that is highest in the image's middle and falls with the distance from it, (N, 1, H, W).

    Cut at one half it is a disc of half the image's diagonal.
    """
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    return -(rows[:, None] ** 2 + columns[None] ** 2).sqrt().expand(num_images, 1, -1, -1)


def _fit(tokens: Tensor, num_clusters: int, seed: int) -> Any:
    cluster = require("sklearn.cluster")
    return cluster.KMeans(num_clusters, n_init=3, random_state=seed).fit(tokens.numpy())
