"""Cluster maps over images: m = y C, brought to the image's size and cut at one half.

Shapes: N images, C channels of an image, O out features, K maps, h and w a layer's grid, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wegeft_pl.adapter import Site
from wegeft_pl.explain.grids import to_grid
from wegeft_pl.explain.outputs import collect_outputs


def layer_grids(
    model: Callable[[Tensor], Any],
    sites: Sequence[Site],
    images_NCHW: Tensor,  # noqa: N803
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Runs a model over images and keeps the edited layers' outputs as grids.

    Args:
        model: takes images; in the mode that the maps are wanted for.
        sites: whose layers to look at.
        images_NCHW: normalised.
        batch_size: images of one pass.

    Returns:
        (N, O, h, w) float32 on the CPU, by site name.

    Raises:
        ValueError: a layer is not called once in a pass, or its output is no grid over the image.
    """
    parts: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    height, width = images_NCHW.shape[2:]
    known = next(sites[0].module.parameters())
    for batch in images_NCHW.split(batch_size):
        with torch.no_grad(), collect_outputs(sites) as outputs:
            model(batch.to(known.device, known.dtype))
        for site in sites:
            grid = to_grid(outputs[site.name], site, len(batch), height, width)
            parts[site.name].append(grid.float().cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def maps_of(grid_NOhw: Tensor, directions_KO: Tensor) -> Tensor:  # noqa: N803
    """The maps m = y C.

    Args:
        grid_NOhw: a layer's output.
        directions_KO: from :func:`wegeft_pl.explain.cluster_directions`.

    Returns:
        (N, K, h, w).

    Example:
        >>> maps_of(torch.ones(1, 3, 2, 2), torch.tensor([[1.0, 2.0, 3.0]])).flatten().tolist()
        [6.0, 6.0, 6.0, 6.0]

    Source: METHOD.md section 5.
    """
    return torch.einsum("nohw,ko->nkhw", grid_NOhw, directions_KO.to(grid_NOhw))


def upsample(maps_NKhw: Tensor, height: int, width: int) -> Tensor:  # noqa: N803
    """Bilinear interpolation to the image's size, (N, K, H, W)."""
    return F.interpolate(maps_NKhw, (height, width), mode="bilinear", align_corners=False)


def min_max(maps_NKHW: Tensor) -> Tensor:  # noqa: N803
    """Stretches every map of every image to [0, 1]; a constant map becomes 0.

    Example:
        >>> min_max(torch.tensor([[[[1.0, 2.0, 3.0]], [[5.0, 5.0, 5.0]]]])).tolist()
        [[[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]]
    """
    low, high = maps_NKHW.amin((2, 3), keepdim=True), maps_NKHW.amax((2, 3), keepdim=True)
    return (maps_NKHW - low) / (high - low).clamp(min=torch.finfo(maps_NKHW.dtype).tiny)


def segment(stretched_NKHW: Tensor) -> Tensor:  # noqa: N803
    """The K-way segmentation: which map is highest at every pixel.

    Args:
        stretched_NKHW: from :func:`min_max`, or the map of the longest direction would win everywhere.

    Returns:
        (N, H, W) int64.

    Example:
        >>> segment(torch.tensor([[[[0.0, 1.0]], [[0.5, 0.5]]]])).tolist()
        [[[1, 0]]]
    """
    return stretched_NKHW.max(1).indices  # several times as fast as argmax on a CPU


def strongest(maps_NKhw: Tensor, num_maps: int) -> list[int]:  # noqa: N803
    """Which maps to show where there are more than fit: those whose values spread most, in their own order.

    Args:
        maps_NKhw: over several images.
        num_maps: how many to choose.

    Returns:
        Indices of the maps of the largest ratio of standard deviation to root mean square over all pixels of all
        images, so that the length of a direction does not count.

    Example:
        >>> strongest(torch.tensor([[[[5.0, 6.0]], [[1.0, -1.0]], [[3.0, 9.0]]]]), 2)
        [1, 2]
    """
    values = maps_NKhw.transpose(0, 1).flatten(1).double()
    size = values.square().mean(1).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    chosen = (values.std(1, correction=0) / size).topk(min(num_maps, len(values))).indices
    return sorted(chosen.tolist())
