from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from generator_cases import array, arrays, count, filled

from wegeft_pl.generators import MLPGenerator


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
def test_equals_the_equation(norm: str, depth: int) -> None:
    generator = filled(MLPGenerator(6, 4, norm=norm, depth=depth))
    weight = torch.randn(5, 6, dtype=torch.float64)
    left, right = generator(weight)
    tokens = array(weight) @ array(generator.phi)
    np.testing.assert_allclose(array(left), oracle.blocks(tokens, arrays(generator), "mlp", depth, norm), atol=1e-12)
    assert right is generator.psi


def test_rows_do_not_meet() -> None:
    generator, weight = filled(MLPGenerator(6, 4)), torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(generator(weight[2:3])[0], generator(weight)[0][2:3])


@pytest.mark.parametrize(("norm", "ratio", "extra"), [("l2", 2, 0), ("layer", 2, 2 * 4), ("l2", 0.5, 0)])
def test_parameters(norm: str, ratio: float, extra: int) -> None:
    expected = 2 * 4 * 6 + 3 * (2 * ratio * 16 + (ratio + 1) * 4 + extra)
    assert count(MLPGenerator(6, 4, norm=norm, mlp_ratio=ratio, depth=3)) == expected
