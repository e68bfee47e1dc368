from __future__ import annotations

import itertools

import pytest

from wegeft_pl.metrics import PassAtK, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_equals_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(range(n), k))
            share = sum(any(sample < c for sample in subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


def test_large_numbers_neither_overflow_nor_vanish() -> None:
    assert pass_at_k(100_000, 1, 100) == pytest.approx(100 / 100_000, rel=1e-9)
    assert pass_at_k(2000, 1000, 1000) == pytest.approx(1.0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="k must be from 1 to the number of samples, 4, got 5"):
        pass_at_k(4, 1, 5)
    with pytest.raises(ValueError, match="num_correct must be from 0 to the number of samples, 4, got 5"):
        pass_at_k(4, 5, 1)


def test_metric_is_the_mean_over_problems() -> None:
    metric = PassAtK([1, 10])
    metric.update([10, 10], [3, 0])
    metric.update([10], [10])
    found = {k: value.item() for k, value in metric.compute().items()}
    assert found == pytest.approx({1: 1.3 / 3, 10: 2 / 3})
    metric.reset()
    metric.update([], [])
    assert metric.compute()[1].isnan()
