from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import merged_input_side, merged_output_side

from wegeft_pl.generators import LinearGenerator


def filled(width: int, rank: int, side: str) -> LinearGenerator:
    generator = LinearGenerator(width, rank, side=side).double()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter)
    return generator


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def test_input_side_is_w_phi_psi() -> None:
    generator, weight = filled(6, 3, "input"), torch.randn(5, 6, dtype=torch.float64)
    left, right = generator(weight)
    expected = merged_input_side(array(weight), array(generator.phi), array(generator.psi), 1.0) - array(weight)
    np.testing.assert_allclose(array(left @ right), expected, atol=1e-12)


def test_output_side_is_phi_psi_w() -> None:
    generator, weight = filled(5, 3, "output"), torch.randn(5, 6, dtype=torch.float64)
    left, right = generator(weight)
    expected = merged_output_side(array(weight), array(generator.phi), array(generator.psi), 1.0) - array(weight)
    np.testing.assert_allclose(array(left @ right), expected, atol=1e-12)


@pytest.mark.parametrize("side", ["input", "output"])
def test_gradients(side: str) -> None:
    generator = filled(4, 2, side)
    weight = torch.randn(4, 4, dtype=torch.float64)

    def change(phi: torch.Tensor, psi: torch.Tensor) -> torch.Tensor:
        left, right = torch.func.functional_call(generator, {"phi": phi, "psi": psi}, (weight,))
        return left @ right

    assert torch.autograd.gradcheck(change, (generator.phi, generator.psi))


@pytest.mark.parametrize("zero", ["phi", "psi"])
def test_one_factor_starts_at_zero_and_the_other_within_the_kaiming_bound(zero: str) -> None:
    generator = LinearGenerator(64, 16, zero=zero)
    other = "psi" if zero == "phi" else "phi"
    assert not generator.get_parameter(zero).any()
    bound = 1 / 64**0.5  # sqrt(6 / ((1 + a^2) fan_in)) with a^2 = 5 and fan_in = width
    largest = generator.get_parameter(other).abs().max().item()
    assert 0.9 * bound < largest <= bound


def test_parameters_are_float32_and_2rd() -> None:
    generator = LinearGenerator(10, 3)
    assert {parameter.dtype for parameter in generator.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in generator.parameters()) == 2 * 3 * 10


def test_a_bfloat16_weight_is_not_copied_to_float32() -> None:
    left, right = LinearGenerator(6, 2)(torch.randn(5, 6, dtype=torch.bfloat16))
    assert left.dtype == right.dtype == torch.bfloat16
