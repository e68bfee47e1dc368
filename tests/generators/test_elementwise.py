from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from generator_cases import array, count, filled

from wegeft_pl.generators import GELUGenerator, SigmoidGenerator


@pytest.mark.parametrize(("kind", "function"), [(SigmoidGenerator, oracle.sigmoid), (GELUGenerator, oracle.gelu)])
def test_the_function_acts_between_phi_and_psi(kind, function) -> None:
    generator, weight = filled(kind(6, 3)), torch.randn(5, 6, dtype=torch.float64)
    left, right = generator(weight)
    expected = function(array(weight) @ array(generator.phi)) @ array(generator.psi)
    np.testing.assert_allclose(array(left @ right), expected, atol=1e-12)
    assert count(generator) == 2 * 3 * 6


def test_gelu_may_start_at_either_factor_and_moves_from_there() -> None:
    for zero in ("phi", "psi"):
        generator = GELUGenerator(6, 3, zero=zero)
        left, right = generator(torch.randn(5, 6))
        assert not (left @ right).any()
        (left @ right).sum().backward()
        assert generator.get_parameter(zero).grad.any()


def test_sigmoid_cannot_start_at_phi() -> None:
    with pytest.raises(
        ValueError, match=r"SigmoidGenerator can start at zero by psi only, got zero: phi; set zero: psi"
    ):
        SigmoidGenerator(6, 3, zero="phi")
