from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wegeft_pl import AdapterConfig, inject, merge
from wegeft_pl.adapter.storage import read_json, read_tensors
from wegeft_pl.generators import AffineGenerator


def test_equals_the_two_affine_maps() -> None:
    generator = AffineGenerator(width=6, rank=2).double()
    for parameter in generator.parameters():
        nn.init.normal_(parameter)
    weight = torch.randn(5, 6, dtype=torch.float64)
    left, right = generator(weight)
    phi, psi, b, c = (getattr(generator, n).detach().numpy() for n in ("phi", "psi", "phi_bias", "psi_bias"))
    expected = np.stack([(row @ phi + b) @ psi + c for row in weight.numpy()])
    np.testing.assert_allclose((left @ right).detach().numpy(), expected, rtol=1e-12)


def test_starts_at_zero_with_a_gradient() -> None:
    generator = AffineGenerator(width=6, rank=2)
    assert sum(parameter.numel() for parameter in generator.parameters()) == 2 * 2 * 6 + 2 + 6
    left, right = generator(torch.randn(5, 6))
    assert torch.equal(left @ right, torch.zeros(5, 6))
    (left @ right).square().sub(left @ right).sum().backward()
    assert float(generator.psi.grad.abs().max()) > 0
    assert float(generator.psi_bias.grad.abs().max()) > 0


def test_gradients() -> None:
    generator = AffineGenerator(width=3, rank=2).double()
    for parameter in generator.parameters():
        nn.init.normal_(parameter)
    weight = torch.randn(4, 3, dtype=torch.float64)
    names, values = zip(*generator.named_parameters(), strict=True)

    def product(*values: torch.Tensor) -> torch.Tensor:
        left, right = torch.func.functional_call(generator, dict(zip(names, values, strict=True)), (weight,))
        return left @ right

    assert torch.autograd.gradcheck(product, values)


def test_merges_and_exports_with_one_rank_more(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(6, 5)).double()
    adapter = inject(model, AdapterConfig(["0"], rank=2, alpha=4, generator=AffineGenerator, zero="psi"))
    for parameter in adapter.groups[0].generator.parameters():
        nn.init.normal_(parameter)
    x, old = torch.randn(3, 6, dtype=torch.float64), model[0].weight.detach().clone()
    edited = model(x)
    adapter.export_lora(tmp_path / "lora")
    tensors = read_tensors(tmp_path / "lora/adapter_model.safetensors")
    lora = tensors["base_model.model.0.lora_B.weight"].double() @ tensors["base_model.model.0.lora_A.weight"].double()
    merge(model, adapter)
    torch.testing.assert_close(model(x), edited, rtol=1e-6, atol=1e-6)  # the factor form adds in the factors' float32
    torch.testing.assert_close(model[0].weight - old, lora, rtol=1e-5, atol=1e-5)
    assert read_json(tmp_path / "lora/adapter_config.json")["r"] == 3


def test_only_psi_starts_at_zero() -> None:
    with pytest.raises(ValueError, match=r"AffineGenerator .* start.? at zero by psi only, got zero: phi"):
        AffineGenerator(4, 2, "phi")
