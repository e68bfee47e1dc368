"""Every kind of layer, side and form against the equations, in float64, and in bfloat16 within a stated bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import (
    convolve,
    merged_convolution,
    merged_convolution_output,
    merged_input_side,
    merged_output_side,
    moved_bias,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from wegeft_pl import Adapter, AdapterConfig, inject, merge

SIDES = ["input", "output"]
FORMS = ["edit", "factor"]


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def filled(model: nn.Module, **fields: object) -> Adapter:
    """Injects into every child, with random factors, in the model's dtype."""
    config = AdapterConfig(**({"targets": ["layer"], "rank": 3, "alpha": 6} | fields))  # type: ignore[arg-type]
    adapter = inject(model, config)
    for _, parameter in adapter.named_parameters():
        parameter.data = torch.randn_like(parameter, dtype=torch.float64) * 0.3
    return adapter


def factors(adapter: Adapter) -> tuple[np.ndarray, np.ndarray]:
    generator = adapter.groups[0].generator
    return array(generator.phi), array(generator.psi)


class Wrapped(nn.Module):
    """A model with one layer, so that the adapter has a root to live on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def conv1d() -> Conv1D:
    layer = Conv1D(5, 6)
    nn.init.normal_(layer.bias)
    return layer


def linear_layers() -> list:
    return [
        pytest.param(lambda: nn.Linear(6, 5), id="Linear"),
        pytest.param(lambda: nn.Linear(6, 5, bias=False), id="Linear-no-bias"),
        pytest.param(conv1d, id="Conv1D"),
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("make", linear_layers())
def test_linear_forward_equals_the_merged_weight(make, side: str, form: str) -> None:
    layer = make().double()
    adapter = filled(model := Wrapped(layer), side=side, form=form)
    phi, psi = factors(adapter)
    stored = array(layer.weight)
    weight = stored.T if isinstance(layer, Conv1D) else stored
    bias = np.zeros(5) if layer.bias is None else array(layer.bias)
    merged = merged_input_side(weight, phi, psi, 2.0) if side == "input" else merged_output_side(weight, phi, psi, 2.0)
    if side == "output":
        bias = moved_bias(bias, phi, psi, 2.0)
    x = torch.randn(4, 7, 6, dtype=torch.float64)
    np.testing.assert_allclose(array(model(x)), array(x) @ merged.T + bias, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("groups", "stride", "padding"), [(1, 1, 1), (2, 2, 1), (4, 1, 0)])
def test_convolution_forward_equals_the_merged_weight(
    groups: int, stride: int, padding: int, side: str, form: str
) -> None:
    layer = nn.Conv2d(4, 8, (3, 2), stride=stride, padding=padding, groups=groups).double()
    adapter = filled(model := Wrapped(layer), side=side, form=form)
    phi, psi = factors(adapter)
    weight, bias = array(layer.weight), array(layer.bias)
    if side == "input":
        merged = merged_convolution(weight, phi, psi, 2.0)
    else:
        merged = merged_convolution_output(weight, phi, psi, 2.0, groups)
        bias = np.concatenate([moved_bias(part, phi, psi, 2.0) for part in np.split(bias, groups)])
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    expected = np.stack([convolve(array(image), merged, groups, stride, padding) for image in x])
    np.testing.assert_allclose(array(model(x)), expected + bias[:, None, None], atol=1e-12)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 5), lambda: nn.Conv2d(4, 8, 3, padding=1, groups=2)])
def test_edit_and_factor_forms_have_equal_gradients(make, side: str) -> None:
    layer = make().double()
    x = torch.randn((2, 4, 6, 6) if isinstance(layer, nn.Conv2d) else (2, 6), dtype=torch.float64, requires_grad=True)
    gradients = []
    for form in FORMS:
        torch.manual_seed(1)
        adapter = filled(model := Wrapped(layer), side=side, form=form)
        model(x).square().sum().backward()
        gradients.append([x.grad.clone(), *(parameter.grad.clone() for _, parameter in adapter.named_parameters())])
        x.grad = None
        adapter.remove()
    for edit, factor in zip(*gradients, strict=True):
        torch.testing.assert_close(edit, factor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 5), lambda: nn.Conv2d(4, 8, 3, padding=1, groups=2)])
@pytest.mark.parametrize("side", SIDES)
def test_merge_equals_forward(make, side: str) -> None:
    layer = make().double()
    x = torch.randn((2, 4, 6, 6) if isinstance(layer, nn.Conv2d) else (2, 6), dtype=torch.float64)
    adapter = filled(model := Wrapped(layer), side=side)
    adapted = model(x)
    merge(model, adapter)
    torch.testing.assert_close(model(x), adapted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_error_is_within_two_roundings_of_the_float64_result(form: str) -> None:
    layer = nn.Linear(64, 64, bias=False)
    adapter = inject(model := Wrapped(layer), AdapterConfig(["layer"], rank=8, form=form))
    for _, parameter in adapter.named_parameters():
        nn.init.normal_(parameter, std=0.05)
    layer.weight.data = layer.weight.data.bfloat16()
    x = torch.randn(32, 64).bfloat16()
    result = model(x)
    assert result.dtype == torch.bfloat16
    phi, psi = factors(adapter)
    expected = array(x) @ merged_input_side(array(layer.weight), phi, psi, 1.0).T
    # bfloat16 rounds at 2^-8 of a value; inputs, the R-wide middle and the sum are each rounded once.
    assert np.abs(array(result) - expected).max() < 4 * 2**-8 * np.abs(expected).max()


def test_weight_dropout_drops_elements_of_w_in_training_only() -> None:
    layer = nn.Linear(6, 5, bias=False).double()
    adapter = filled(model := Wrapped(layer), weight_dropout=0.5)
    assert adapter.sites[0].form == "factor"
    x = torch.eye(6, dtype=torch.float64)
    phi, psi = factors(adapter)
    weight = array(layer.weight)
    model.eval()
    np.testing.assert_allclose(array(model(x)).T, merged_input_side(weight, phi, psi, 2.0), atol=1e-12)
    model.train()
    changes = np.stack([array(model(x)).T - weight for _ in range(4000)])
    # Every change is s (W * mask / keep) phi psi; its mean over masks is the change without dropout.
    full = merged_input_side(weight, phi, psi, 2.0) - weight
    np.testing.assert_allclose(changes.mean(0), full, atol=0.1)
    assert np.ptp(changes, axis=0).max() > 0


def test_input_dropout_acts_on_the_adapter_branch_in_training_only() -> None:
    layer = nn.Linear(6, 5, bias=False).double()
    filled(model := Wrapped(layer), input_dropout=0.5)
    x = torch.randn(3, 6, dtype=torch.float64)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    torch.manual_seed(3)
    first = model(x)
    assert not torch.equal(first, model(x))
    torch.manual_seed(3)
    assert torch.equal(first, model(x))


def test_an_empty_batch_passes() -> None:
    filled(model := Wrapped(nn.Linear(6, 5).double()))
    assert model(torch.zeros(0, 6, dtype=torch.float64)).shape == (0, 5)


def test_the_factor_form_refuses_a_quantised_weight() -> None:
    layer = nn.Linear(6, 5, bias=False)
    inject(model := Wrapped(layer), AdapterConfig(["layer"], rank=2, form="factor"))
    layer.weight = nn.Parameter(torch.zeros(5, 6, dtype=torch.int8), requires_grad=False)
    layer.forward = lambda x: x @ layer.weight.float().T  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"layer stores a quantised weight \(int8\) .* form: edit"):
        model(torch.randn(2, 6))
