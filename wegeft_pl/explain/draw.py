"""One sheet of cluster maps for every layer, in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wegeft_pl.adapter import Site
from wegeft_pl.explain.directions import cluster_directions
from wegeft_pl.explain.images import Masks
from wegeft_pl.explain.maps import maps_of, strongest
from wegeft_pl.explain.pictures import contact_sheet, write_png


def draw_layers(
    sites: list[Site],
    grids: Mapping[str, Tensor],
    images_N3HW: Tensor,  # noqa: N803
    folder: Path,
    num_images: int = 8,
    num_maps: int = 16,
    masks: Masks | None = None,
) -> dict[str, Tensor]:
    """Writes ``LAYER.png`` for every layer.

    Args:
        sites: the layers.
        grids: their outputs on the images, from :func:`wegeft_pl.explain.layer_grids`.
        images_N3HW: uint8.
        folder: to write into.
        num_images: rows of a sheet, evenly spread over the images.
        num_maps: columns of a sheet; of more maps those that spread most are shown.
        masks: outlines of the objects, of the images' size.

    Returns:
        The sheets, uint8 (height, width, 3), by site name.

    Raises:
        ValueError: a number is less than 1, or matplotlib is not installed.
    """
    for name, value in (("num_images", num_images), ("num_maps", num_maps)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    count = min(num_images, len(images_N3HW))
    rows = torch.tensor([row * len(images_N3HW) // count for row in range(count)])
    sheets = {}
    for site in sites:
        maps = maps_of(grids[site.name], cluster_directions(site))
        shown, total = strongest(maps, num_maps), maps.shape[1]
        which = (
            f"{total} cluster maps" if len(shown) == total else f"the {len(shown)} strongest of {total} cluster maps"
        )
        target = None if masks is None else masks.target[rows]
        sheets[site.name] = contact_sheet(images_N3HW[rows], maps[rows], f"{site.name}: {which}", shown, target)
        write_png(sheets[site.name], folder / f"{site.name}.png")
    return sheets
