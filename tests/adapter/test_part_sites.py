"""Parts of fused layers against the equations, in float64: every kind of layer, side and form, merge and way back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import merged_input_side, merged_output_side, moved_bias
from torch import nn
from transformers.pytorch_utils import Conv1D

from wegeft_pl import Adapter, AdapterConfig, inject, load_adapter, merge, unmerge

#: Two heads of [q q k v v v]; the layer has 12 output features.
SIZES = {"q": 2, "k": 1, "v": 3}
ROWS = {"q": [0, 1, 6, 7], "v": [3, 4, 5, 9, 10, 11]}
KINDS = {"Linear": lambda: nn.Linear(5, 12), "Conv1D": lambda: Conv1D(12, 5), "Conv2d": lambda: nn.Conv2d(5, 12, 1)}


class Attention(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.qkv = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.qkv(x)


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.ModuleDict({"attn": Attention(KINDS[kind]())}).double()
    nn.init.normal_(model["attn"].qkv.bias)
    return model


def filled(model: nn.Module, **fields: Any) -> Adapter:
    chosen = {"targets": ["qkv.q", "qkv.v"], "rank": 2, "alpha": 3.0, "fused": {"attn.qkv": SIZES}} | fields
    adapter = inject(model, AdapterConfig(**chosen))
    torch.manual_seed(1)
    for _, parameter in adapter.named_parameters():
        parameter.data = torch.randn_like(parameter, dtype=torch.float64) * 0.5
    return adapter


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def expected(layer: nn.Module, adapter: Adapter) -> tuple[np.ndarray, np.ndarray]:
    """The layer's matrix (12, 5) and bias (12,) after the adapter, by the equations."""
    stored = array(layer.weight).reshape(12, 5) if not isinstance(layer, Conv1D) else array(layer.weight).T
    weight, bias, config = stored.copy(), array(layer.bias).copy(), adapter.config
    for group in adapter.groups:
        rows = ROWS[group.sites[0].name.rpartition(".")[2]]
        phi, psi = array(group.generator.phi), array(group.generator.psi)
        if config.side == "input":
            weight[rows] = merged_input_side(stored[rows], phi, psi, config.scale)
        else:
            weight[rows] = merged_output_side(stored[rows], phi, psi, config.scale)
            bias[rows] = moved_bias(bias[rows], phi, psi, config.scale)
    return weight, bias


def outputs(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    conv = isinstance(model["attn"].qkv, nn.Conv2d)
    y = model["attn"](x.T[None, :, :, None]) if conv else model["attn"](x)
    return array(y[0, :, :, 0].T if conv else y)


CASES = [("input", "factor"), ("input", "weight"), ("output", "edit"), ("output", "factor"), ("output", "weight")]


@pytest.mark.parametrize(("side", "form"), [*CASES, ("input", "auto"), ("output", "auto")])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_merge_and_the_way_back(kind: str, side: str, form: str) -> None:
    model, x = model_of(kind), torch.randn(7, 5, dtype=torch.float64)
    base, before = outputs(model, x), copy.deepcopy(model.state_dict())
    adapter = filled(model, side=side, form=form)
    resolved = {"input": "factor", "output": "edit"}[side] if form == "auto" else form
    assert {site.form for site in adapter.sites} == {resolved}
    weight, bias = expected(model["attn"].qkv, adapter)
    wanted = array(x) @ weight.T + bias
    assert np.abs(wanted - base).max() > 0.1
    np.testing.assert_allclose(outputs(model, x), wanted, atol=1e-12)
    assert set(model.state_dict()) - set(before) == {name for name, _ in adapter.named_parameters()}
    merge(model, adapter)
    np.testing.assert_allclose(outputs(model, x), wanted, atol=1e-12)
    unmerge(model, adapter)
    np.testing.assert_allclose(outputs(model, x), wanted, atol=1e-9)
    adapter.remove()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("side", "form"), CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_has_the_same_gradients(kind: str, side: str, form: str) -> None:
    gradients = []
    for each in (form, "auto"):
        model, x = model_of(kind), torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        adapter = filled(model, side=side, form=each)
        y = model["attn"](x.T[None, :, :, None]) if kind == "Conv2d" else model["attn"](x)
        y.square().sum().backward()
        gradients.append([parameter.grad for _, parameter in adapter.named_parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
        assert one.abs().max() > 1e-3


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_stays_within_a_stated_bound(kind: str, side: str) -> None:
    """Three roundings of relative 2^-8 each at most: the output of the exact layer, to 3 % of its largest value."""
    model, x = model_of(kind), torch.randn(7, 5, dtype=torch.float64)
    adapter = filled(model, side=side)
    weight, bias = expected(model["attn"].qkv, adapter)
    wanted = array(x) @ weight.T + bias
    model.bfloat16()
    for _, parameter in adapter.named_parameters():
        parameter.data = parameter.data.float()
    near = outputs(model, x.bfloat16())
    assert np.abs(near - wanted).max() < 0.03 * np.abs(wanted).max()
    merge(model, adapter)
    assert np.abs(outputs(model, x.bfloat16()) - wanted).max() < 0.03 * np.abs(wanted).max()


def test_parts_are_saved_and_loaded(tmp_path: Path) -> None:
    model, x = model_of("Linear"), torch.randn(7, 5, dtype=torch.float64)
    adapter = filled(model)
    adapter.save(tmp_path / "adapter")
    assert [group.name for group in adapter.groups] == ["q", "v"]
    other = model_of("Linear")
    loaded = load_adapter(other, tmp_path / "adapter")
    assert loaded.config.fused == {"attn.qkv": SIZES}
    np.testing.assert_allclose(outputs(other, x), outputs(model, x), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"form": "edit"},
            r"attn.qkv.q cannot use form: edit, because it is a part of a fused layer, .* form: auto",
        ),
        ({"targets": ["qkv", "qkv.v"]}, r"targets name attn.qkv whole and its part v; name the layer, or its parts"),
        ({"targets": ["qkv.value"]}, r"attn.qkv has no part 'value'; its parts are q, k, v"),
        ({"targets": ["qkv.v"], "fused": {}}, r"how attn.qkv \(Linear\) is made up of parts is not known; say it with"),
        ({"fused": {"proj": SIZES}}, r"fused: no layer ends in 'proj'"),
        (
            {"fused": {"qkv": {"q": 5, "v": 5}}},
            r"fused: parts of q 5, v 5 do not divide the 12 output features",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filled(model_of("Linear"), **fields)


def test_an_expression_that_takes_the_layer_takes_it_whole() -> None:
    adapter = filled(model_of("Linear"), targets=r"attn\..*")
    assert [site.name for site in adapter.sites] == ["attn.qkv"]
    adapter = filled(model_of("Linear"), targets=r"attn\.qkv\.[qk]")
    assert [site.name for site in adapter.sites] == ["attn.qkv.q", "attn.qkv.k"]


def test_parts_of_a_quantised_layer_are_refused() -> None:
    torchao = pytest.importorskip("torchao")
    del torchao
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = nn.ModuleDict({"attn": Attention(nn.Linear(32, 96))})
    quantize_(model, Int8WeightOnlyConfig())
    with pytest.raises(ValueError, match=r"attn.qkv.q is quantised .* and the factor form reads its weight"):
        inject(model, AdapterConfig(["qkv.q"], fused={"qkv": {"q": 32, "k": 32, "v": 32}}))


def test_parts_come_in_the_models_order() -> None:
    adapter = filled(model_of("Linear"), targets=["qkv.v", "qkv.k", "qkv.q"])
    assert [site.name for site in adapter.sites] == ["attn.qkv.q", "attn.qkv.k", "attn.qkv.v"]
