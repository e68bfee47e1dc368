from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.adapter import chunks as module
from wegeft_pl.adapter.merge_rows import Scratch, merge_rows
from wegeft_pl.adapter.row_change import RowChange, bias_change, moves_bias, weight_change
from wegeft_pl.adapter.sites import Site


def site_of(layer: nn.Module, **fields: object) -> Site:
    adapter = inject(nn.ModuleDict({"layer": layer}), AdapterConfig(["layer"], **({"rank": 3, "alpha": 6.0} | fields)))
    for _, parameter in adapter.named_parameters():
        nn.init.normal_(parameter)
    return adapter.sites[0]


def merged(change: RowChange, stored: Tensor, pieces: list[int], dtype: torch.dtype = torch.float64) -> Tensor:
    """Merges pieces of the rows one after the other, as processes that hold them would."""
    firsts = [sum(pieces[:number]) for number in range(len(pieces))]
    parts = [(first, stored[first : first + size]) for first, size in zip(firsts, pieces, strict=True)]
    for across in change.across:
        across.gather(across.share(first, part) for first, part in parts)
    results = [merge_rows(change, first, part, dtype, Scratch()) for first, part in parts]
    assert [sums.numel for _, sums in results] == [part.numel() for _, part in parts]
    return torch.cat([rows for rows, _ in results])


LAYERS = {
    "linear": lambda: nn.Linear(5, 7),
    "conv1d": lambda: Conv1D(7, 5),
    "conv2d": lambda: nn.Conv2d(4, 6, (3, 2), groups=2),
}
PIECES = {"linear": [4, 0, 3], "conv1d": [1, 4], "conv2d": [2, 4]}


@pytest.mark.parametrize("chunk", [1, 10, 2**19])
@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("kind", LAYERS)
def test_rows_merged_in_parts_equal_the_paper(
    kind: str, side: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    layer = LAYERS[kind]().double()
    nn.init.normal_(layer.bias)
    site = site_of(layer, side=side)
    W, b = (parameter.detach().numpy() for parameter in (layer.weight, layer.bias))
    phi, psi = (factor.detach().double().numpy() for factor in (site.generator.phi, site.generator.psi))
    W = W.T if kind == "conv1d" else W
    if kind == "conv2d" and side == "input":
        expected = oracle.merged_convolution(W, phi, psi, 2.0)
    elif kind == "conv2d":
        expected = oracle.merged_convolution_output(W, phi, psi, 2.0, 2)
    else:
        expected = (oracle.merged_input_side if side == "input" else oracle.merged_output_side)(W, phi, psi, 2.0)
    expected = expected.T if kind == "conv1d" else expected
    weight = layer.weight.detach()
    result = merged(weight_change([site], torch.float64, weight.clone), weight, PIECES[kind])
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert moves_bias(site) == (side == "output")
    if side == "output":
        halves = b.reshape(site.layout.groups, -1)
        moved = np.concatenate([oracle.moved_bias(half, phi, psi, 2.0) for half in halves])
        result = merged(bias_change([site], torch.float64, layer.bias.detach), layer.bias.detach(), [2, len(b) - 2])
        np.testing.assert_allclose(result.numpy(), moved, rtol=1e-12, atol=1e-12)


def test_a_layer_without_bias_moves_none() -> None:
    assert not moves_bias(site_of(nn.Linear(5, 7, bias=False), side="output"))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_generator_that_is_not_linear_reads_the_whole_weight(kind: str) -> None:
    from adapter.test_inject import Squared

    site = site_of(LAYERS[kind](), generator=Squared)
    weight = site.module.get_parameter("weight").detach()
    left, right = site.factors()
    expected = weight + site.layout.from_matrix(left @ right, "input")
    result = merged(weight_change([site], torch.float32, weight.clone), weight, PIECES[kind], torch.float32)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(result, weight)


def test_the_sum_is_made_in_float32_and_rounded_once() -> None:
    site = site_of(nn.Linear(64, 48).bfloat16())
    weight = site.module.get_parameter("weight").detach()
    exact = merged(weight_change([site], torch.float64, weight.clone), weight, [48])
    result = merged(weight_change([site], torch.float32, weight.clone), weight, [48], torch.bfloat16)
    half_step = torch.exp2(exact.abs().log2().floor() - 8)  # bfloat16 has 8 significant bits
    assert bool(((result.double() - exact).abs() <= half_step * 1.001 + 1e-6).all())
