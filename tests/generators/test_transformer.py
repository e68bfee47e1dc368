from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from generator_cases import array, arrays, count, filled

from wegeft_pl.generators import TransformerGenerator


@pytest.mark.parametrize(("heads", "depth"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
def test_equals_the_equation(norm: str, heads: int, depth: int) -> None:
    generator = filled(TransformerGenerator(6, 4, norm=norm, heads=heads, depth=depth))
    weight = torch.randn(5, 6, dtype=torch.float64)
    left, right = generator(weight)
    expected = oracle.blocks(
        array(weight) @ array(generator.phi), arrays(generator), "transformer", depth, norm, heads=heads
    )
    np.testing.assert_allclose(array(left), expected, atol=1e-11)
    assert right is generator.psi


def test_rows_meet() -> None:
    generator, weight = filled(TransformerGenerator(6, 4)), torch.randn(5, 6, dtype=torch.float64)
    assert not torch.allclose(generator(weight[2:3])[0], generator(weight)[0][2:3])


def test_parameters() -> None:
    block = 8 * 16 + 7 * 4
    assert count(TransformerGenerator(6, 4, depth=2)) == 2 * 4 * 6 + 2 * block
    assert count(TransformerGenerator(6, 4, norm="layer", mlp_ratio=3)) == 2 * 4 * 6 + 10 * 16 + 8 * 4 + 4 * 4


def test_heads_divide_the_rank() -> None:
    with pytest.raises(ValueError, match=r"heads: 3 does not divide the 4 channels \(the rank\); choose a divisor"):
        TransformerGenerator(6, 4, heads=3)
