"""A layer's maps scored beside what they have to beat: random directions, k-means, the whole image, its centre."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wegeft_pl.adapter import Site
from wegeft_pl.explain.baselines import centre_map, k_means, one_hot
from wegeft_pl.explain.directions import cluster_directions, random_directions
from wegeft_pl.explain.images import Masks
from wegeft_pl.explain.maps import maps_of
from wegeft_pl.explain.scores import Scores, every_other, score_images, summarise

#: How the rows of a comparison are called, in their order; the baselines of a layer and those of no layer.
LEARNED, RANDOM, K_MEANS, TWO_MEANS = "learned", "random phi", "k-means, K maps", "2-means"
WHOLE, CENTRE = "whole image", "centre"


def compare_layer(
    site: Site,
    grid_NOhw: Tensor,  # noqa: N803
    masks: Masks,
    num_draws: int = 3,
    tolerance_pixels: int = 15,
) -> dict[str, Scores]:
    """Scores the maps of one layer and its baselines, all on the same tokens.

    Maps are chosen on every second image and scored on the others, for the learned ones and the baselines alike.

    Args:
        site: the layer.
        grid_NOhw: its output on the images.
        masks: of the images.
        num_draws: of random directions.
        tolerance_pixels: of the pointing game.

    Returns:
        Scores by name: the learned maps, random ones of the same kind, k-means with as many clusters, and 2-means.

    Raises:
        ValueError: there are fewer than two images, or scikit-learn is not installed.
    """
    chosen = every_other(len(grid_NOhw))
    directions = cluster_directions(site)

    def score(drawn: Sequence[Tensor]) -> Scores:
        return summarise([score_images(maps_of(grid_NOhw, each), masks, tolerance_pixels) for each in drawn], chosen)

    found = {
        LEARNED: score([directions]),
        RANDOM: score([random_directions(site, seed) for seed in range(num_draws)]),
    }
    for name, clusters in ((K_MEANS, len(directions)), (TWO_MEANS, 2)):
        near = k_means(grid_NOhw, chosen, clusters)
        found[name] = summarise([score_images(near, masks, tolerance_pixels, one_hot(near))], chosen)
    return found


def compare_nothing(masks: Masks, tolerance_pixels: int = 15) -> dict[str, Scores]:
    """Scores what knows no layer: the whole image as the object, and a disc in its centre.

    Args:
        masks: of the images.
        tolerance_pixels: of the pointing game.

    Returns:
        Scores by name; the whole image points to its middle.
    """
    num_images, height, width = masks.target.shape
    chosen = every_other(num_images)
    centre = centre_map(num_images, height, width)
    # A map of one region that is everything: min-max has no cut for a constant, so its empty negative is scored.
    nothing = torch.zeros(num_images, 1, height, width)
    return {
        WHOLE: summarise([score_images(centre, masks, tolerance_pixels, nothing)], chosen),
        CENTRE: summarise([score_images(centre, masks, tolerance_pixels)], chosen),
    }
