from __future__ import annotations

import numpy as np
import pytest
import torch

from wegeft_pl.adapter.merge_rows import RowSums, Scratch, replace_rows


def test_sums_of_parts_make_the_report_of_the_whole() -> None:
    old, wanted = torch.randn(8, 5), 0.01 * torch.randn(8, 5)
    wanted[0] = 0
    rounded = (old.bfloat16().float() + wanted).bfloat16()
    old = old.bfloat16().float()
    sums = [RowSums(), RowSums()]
    for part, rows in zip(sums, (slice(3), slice(3, 8)), strict=True):
        part.add(old[rows].clone(), wanted[rows], rounded[rows], torch.empty_like(old[rows]))
    sums[0].include(sums[1])
    report = sums[0].report("layer")
    W, delta, stored = (tensor.double().numpy() for tensor in (old, wanted, rounded))
    assert report.name == "layer"
    assert report.relative_change == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(W), rel=1e-5)
    assert report.changed == pytest.approx((stored != W).mean())
    assert 0 < report.changed < 1
    assert report.rounding_loss == pytest.approx(np.linalg.norm(stored - W - delta) / np.linalg.norm(delta), rel=1e-5)


def test_reports_where_there_is_nothing_to_divide_by() -> None:
    zero, one = torch.zeros(2, 2), torch.ones(2, 2)
    nothing, born = RowSums(), RowSums()
    nothing.add(zero.clone(), zero, zero, torch.empty(2, 2))
    born.add(zero.clone(), one, one, torch.empty(2, 2))
    assert vars(nothing.report("a")) == {"name": "a", "relative_change": 0.0, "changed": 0.0, "rounding_loss": 0.0}
    assert vars(born.report("a")) == {"name": "a", "relative_change": 1.0, "changed": 1.0, "rounding_loss": 0.0}


def test_trained_rows_replace_the_bases() -> None:
    base, trained = torch.zeros(4, 3).bfloat16(), torch.full((4, 3), 1.001)
    rows, sums = replace_rows(base, trained, torch.bfloat16, Scratch())
    assert torch.equal(rows, torch.ones(4, 3).bfloat16())
    assert sums.report("norm").rounding_loss == pytest.approx(0.001 / 1.001, rel=1e-3)
    scalar, sums = replace_rows(torch.tensor(2.0), torch.tensor(3.0), torch.float32, Scratch())
    assert (float(scalar), scalar.ndim, sums.report("scale").relative_change) == (3.0, 0, 0.5)
