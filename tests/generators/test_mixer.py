from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from generator_cases import array, arrays, count, filled

from wegeft_pl.generators import MixerGenerator


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
def test_equals_the_equation(norm: str, depth: int) -> None:
    generator = filled(MixerGenerator(6, 4, rows=5, hidden_tokens=7, norm=norm, depth=depth))
    weight = torch.randn(5, 6, dtype=torch.float64)
    left, right = generator(weight)
    tokens = array(weight) @ array(generator.phi)
    np.testing.assert_allclose(array(left), oracle.blocks(tokens, arrays(generator), "mixer", depth, norm), atol=1e-11)
    assert right is generator.psi


def test_parameters_with_64_hidden_tokens() -> None:
    block = 2 * 64 * 5 + 64 + 5 + 4 * 16 + 3 * 4
    assert count(MixerGenerator(6, 4, rows=5, depth=2)) == 2 * 4 * 6 + 2 * block
    assert count(MixerGenerator(6, 4, rows=5, norm="layer")) == 2 * 4 * 6 + block + 4 * 4
