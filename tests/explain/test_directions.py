"""Cluster directions against NumPy, for every kind of generator and layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explain.small_vision import adapted
from generator_cases import HIDDEN, array, name_of
from torch import nn

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.explain import cluster_directions, random_directions
from wegeft_pl.generators import Generator
from wegeft_pl.generators.paca import PaCa


def test_linear_is_w_phi() -> None:
    _, adapter = adapted(alpha=2.0)
    for site in adapter.sites:
        expected = (array(site.module.get_parameter("weight")) @ array(site.generator.phi)).T
        np.testing.assert_allclose(array(cluster_directions(site)), expected, atol=1e-6)


def test_output_side_is_phi() -> None:
    _, adapter = adapted(side="output")
    site = adapter.sites[0]
    np.testing.assert_allclose(array(cluster_directions(site)), array(site.generator.phi).T, atol=1e-7)


def test_a_fused_part_has_its_own_rows() -> None:
    _, adapter = adapted(["qkv"])
    assert cluster_directions(adapter.sites[0]).shape == (4, 24)


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_convolution_is_averaged_over_its_kernel(side: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, (2, 3)))
    adapter = inject(model, AdapterConfig(["0"], rank=2, zero="psi", side=side))  # type: ignore[arg-type]
    site = adapter.sites[0]
    nn.init.normal_(site.generator.phi)
    weight, phi = array(model[0].get_parameter("weight")), array(site.generator.phi)
    expected = np.einsum("oihw,ir->ro", weight, phi) / 6 if side == "input" else phi.T
    np.testing.assert_allclose(array(cluster_directions(site)), expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "options"), HIDDEN, ids=name_of)
def test_other_generators(kind: type[Generator], options: dict[str, object]) -> None:
    _, adapter = adapted(generator=kind, generator_options=options)
    site = adapter.sites[0]
    found = cluster_directions(site)
    attention = [module for module in site.generator.modules() if isinstance(module, PaCa)]
    if not attention:
        left, _ = site.factors()
        assert torch.equal(found, left[:, :4].T)
        return
    # Written out from METHOD.md section 4, for one block.
    weight, phi = array(site.module.get_parameter("weight")), array(site.generator.phi)
    tokens = weight @ phi
    if "positions" in dict(site.generator.named_parameters()):
        tokens = tokens + array(site.generator.get_parameter("positions"))
    if options.get("norm", "l2") == "l2":
        tokens = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    cluster = attention[0].cluster
    logits = (tokens @ array(cluster.weight).T + (0 if cluster.bias is None else array(cluster.bias))).T
    if options.get("assignment") == "softmax":
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    else:
        expected = 1 / (1 + np.exp(-logits)) / 8
    assert found.shape == (3, 8)
    np.testing.assert_allclose(array(found), expected, atol=1e-5)


def test_the_last_block_counts() -> None:
    options = {"clusters": 3, "depth": 2}
    _, adapter = adapted(generator="wegeft_pl.generators.PaCaGenerator", generator_options=options)
    site = adapter.sites[0]
    first = cluster_directions(site)
    last = [module for module in site.generator.modules() if isinstance(module, PaCa)][1]
    nn.init.zeros_(last.cluster.weight)
    nn.init.zeros_(last.cluster.bias)
    assert not torch.allclose(first, cluster_directions(site))
    assert torch.allclose(cluster_directions(site), torch.full((3, 8), 0.5 / 8))


@pytest.mark.parametrize("zero", ["phi", "psi"])
def test_random_directions_are_those_of_a_fresh_start(zero: str) -> None:
    _, adapter = adapted(zero=zero)
    site = adapter.sites[0]
    trained = site.generator.phi.clone()
    before = torch.get_rng_state()
    found = random_directions(site, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(site.generator.phi, trained)
    assert torch.equal(found, random_directions(site, 3))
    assert not torch.allclose(found, random_directions(site, 4))
    # Of the same size as W phi with phi uniform in +-1/sqrt(I), whichever factor starts at zero.
    phi = torch.linalg.lstsq(site.module.get_parameter("weight").detach(), found.T).solution
    assert phi.abs().max() <= 8**-0.5 + 1e-4
    assert phi.abs().max() > 0.5 * 8**-0.5


def test_refusals() -> None:
    grouped = inject(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), AdapterConfig(["0"], rank=2, side="output"))
    with pytest.raises(ValueError, match=r"cluster maps need linear layers or convolutions .*of one group.*--layers"):
        cluster_directions(grouped.sites[0])
