"""sigma_max against the full singular value decomposition of the D x D product."""

from __future__ import annotations

import pytest
import torch

from wegeft_pl.adapter.spectrum import sigma_max


@pytest.mark.parametrize(("width", "rank"), [(40, 6), (5, 5), (4, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_the_full_product(width: int, rank: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(width)
    phi = torch.randn(width, rank, generator=generator).to(dtype)
    psi = torch.randn(rank, width, generator=generator).to(dtype)
    oracle = torch.linalg.svdvals(-1.5 * phi.double() @ psi.double())[0]
    assert sigma_max(phi, psi, -1.5) == pytest.approx(float(oracle), rel=1e-12)


def test_bounds_the_relative_change_of_any_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    phi, psi = torch.randn(12, 3, generator=generator), torch.randn(3, 12, generator=generator)
    bound = sigma_max(phi, psi, 0.1)
    for out_features in (2, 12, 30):
        weight = torch.randn(out_features, 12, generator=generator)
        change = 0.1 * weight @ phi @ psi
        assert float(change.norm() / weight.norm()) <= bound
        assert float(torch.linalg.norm(change, 2) / torch.linalg.norm(weight, 2)) <= bound


def test_zero_at_the_start() -> None:
    assert sigma_max(torch.zeros(8, 2), torch.randn(2, 8), 2.0) == 0.0


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"do not fit: \(8, 2\) and \(8, 2\)"):
        sigma_max(torch.zeros(8, 2), torch.zeros(8, 2), 1.0)
