"""The torchmetrics class: counting, merging across ranks, errors."""

import pytest
import torch

from wegeft_pl.metrics import ExactMatch, gsm8k_strict, last_number


def test_counts_over_batches():
    metric = ExactMatch(gsm8k_strict)
    metric.update(["#### 1,000", "no marker 7"], ["1000", "7"])
    metric.update(["#### 3"], ["4"])
    assert metric.compute().item() == pytest.approx(1 / 3)
    metric.reset()
    metric.update(["#### 3"], ["3.0"])
    assert metric.compute().item() == 1.0


def test_strict_and_flexible_side_by_side():
    outputs, references = ["so 7 it is", "#### 8"], ["7", "8"]
    scores = {}
    for extract in (gsm8k_strict, last_number):
        metric = ExactMatch(extract)
        metric.update(outputs, references)
        scores[extract.__name__] = metric.compute().item()
    assert scores == {"gsm8k_strict": 0.5, "last_number": 1.0}


def test_states_of_ranks_add_up():
    ranks = [ExactMatch(last_number) for _ in range(2)]
    ranks[0].update(["1", "2", "3"], ["1", "2", "4"])
    ranks[1].update(["5"], ["6"])
    metric = ExactMatch(last_number)
    metric.num_correct = sum((rank.num_correct for rank in ranks), torch.tensor(0))
    metric.num_total = sum((rank.num_total for rank in ranks), torch.tensor(0))
    metric.update([], [])
    assert metric.compute().item() == 0.5
    assert {reduction.__name__ for reduction in metric._reductions.values()} == {"dim_zero_sum"}


def test_another_comparison():
    metric = ExactMatch(str.strip, equal=str.__eq__)
    metric.update([" true "], ["true"])
    assert metric.compute().item() == 1.0


def test_nothing_counted_is_not_a_score():
    metric = ExactMatch(last_number)
    metric.update([], [])
    assert metric.compute().isnan()


@pytest.mark.parametrize(("outputs", "references"), [(["1"], ["1", "2"]), ("12", ["1", "2"]), (["1", "2"], "12")])
def test_unequal_lengths_and_bare_strings_are_refused(outputs, references):
    with pytest.raises(ValueError, match="must be lists of one length"):
        ExactMatch(last_number).update(outputs, references)
