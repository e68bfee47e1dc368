"""The cluster directions of a site: what its output tokens are multiplied with to give maps.

Shapes: O out features, R rank, K maps: R for most generators, M clusters for PaCa and GIFT with PaCa.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from wegeft_pl.adapter import Site
from wegeft_pl.adapter.sites import evaluate
from wegeft_pl.generators import Generator
from wegeft_pl.generators.paca import PaCa

#: Kinds of layers whose every row is one output feature at one place.
KINDS = ("linear", "conv1d", "conv2d")


def cluster_directions(site: Site) -> Tensor:
    """The directions C of a site's clusters, one a row.

    For generators with PaCa, C (M, O) is the assignment of the weight's rows to the M clusters, of the last block.
    For all others C is the transpose of the left factor: W phi for the linear generator (phi itself on the output
    side), H(W phi) for a nonlinear one. Of a convolution's kernel positions the mean counts. Signs mean nothing but
    for PaCa: phi and psi may both be negated without changing the adapter.

    Args:
        site: with a readable weight.

    Returns:
        (K, O) float32, on the weight's device.

    Raises:
        ValueError: the layer is of a kind that has no such maps, or its weight is quantised.

    Source: METHOD.md section 5.
    """
    return _directions(site, site.generator)


def random_directions(site: Site, seed: int) -> Tensor:
    """The same for a generator that was never trained: the same class, drawn from its own distribution.

    Where the adapter starts with phi at zero, phi is drawn as it is where psi starts at zero, for there would be no
    maps otherwise.

    Args:
        site: as for :func:`cluster_directions`.
        seed: of the draw, which leaves torch's own random state alone.

    Returns:
        (K, O) float32.
    """
    fresh = copy.deepcopy(site.generator)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        fresh.cpu().reset_parameters()
        if fresh.zero == "phi":
            nn.init.kaiming_uniform_(fresh.phi.T, a=math.sqrt(5))
    device = next(site.generator.parameters()).device
    return _directions(site, fresh.to(device))


def _directions(site: Site, generator: Generator) -> Tensor:
    layout = site.layout
    if layout.kind not in KINDS or (layout.groups > 1 and site.config.side == "output"):
        raise ValueError(
            f"cluster maps need linear layers or convolutions (with side: output, of one group), and {site.name} is "
            f"of kind {layout.kind}; leave it out with --layers"
        )
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, PaCa)
        found.append(module.clusters(args[0]).detach())

    attentions = [module for module in generator.modules() if isinstance(module, PaCa)]
    handles = [module.register_forward_pre_hook(keep) for module in attentions]
    try:
        matrix = layout.to_matrix(site.weight.detach(), site.config.side).float()
        left, _ = evaluate(generator, matrix, torch.float32)
    finally:
        for handle in handles:
            handle.remove()
    rows = found[-1] if found else left[:, : generator.rank].T  # a bias adds a column of ones to left
    if layout.kind == "conv2d" and site.config.side == "input":
        rows = rows.reshape(len(rows), -1, layout.out_features).mean(1)
    return rows.float()
