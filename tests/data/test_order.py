"""Orders and shares of rows, checked over many sizes."""

import itertools

import pytest

from wegeft_pl.data.order import BatchOrder

SIZES = list(itertools.product([1, 2, 5, 7, 16, 23], [1, 2, 4, 50], [1, 2, 3, 4]))


def shares(num_rows, batch_size, num_processes, **kwargs):
    return [
        BatchOrder(num_rows, batch_size, num_processes=num_processes, rank=r, **kwargs) for r in range(num_processes)
    ]


@pytest.mark.parametrize(("num_rows", "batch_size", "num_processes"), SIZES)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_process_has_equally_many_batches_and_no_row_is_left_out(num_rows, batch_size, num_processes, shuffle):
    orders = shares(num_rows, batch_size, num_processes, shuffle=shuffle)
    batches = [order.batches() for order in orders]
    assert {len(own) for own in batches} == {len(orders[0])}
    assert all(1 <= len(batch) <= batch_size for own in batches for batch in own)
    assert {row for own in batches for batch in own for row in batch} == set(range(num_rows))


@pytest.mark.parametrize(("num_rows", "batch_size", "num_processes"), SIZES)
@pytest.mark.parametrize("shuffle", [True, False])
def test_no_row_counts_twice(num_rows, batch_size, num_processes, shuffle):
    orders = shares(num_rows, batch_size, num_processes, shuffle=shuffle)
    counted = [r for order in orders for b in order.batches()[: len(order) - order.has_spare] for r in b]
    assert sorted(counted) == list(range(num_rows))


@pytest.mark.parametrize("num_rows", [1, 7, 16, 17, 18, 19])
def test_the_same_rows_make_a_global_batch_on_any_number_of_processes(num_rows):
    def global_batches(num_processes, first=0):
        orders = shares(num_rows, 4 // num_processes, num_processes, shuffle=True, seed=3)
        places = zip(*(order.batches(first) for order in orders), strict=True)
        spare = [order.has_spare_from(first) for order in orders]
        last = orders[0].num_batches(first) - 1
        return [
            sorted(r for rank, batch in enumerate(place) for r in batch if not (spare[rank] and number == last))
            for number, place in enumerate(places)
        ]

    assert global_batches(1) == global_batches(2) == global_batches(4)
    for first in (4, 8):
        if first < num_rows:
            assert global_batches(1)[first // 4 :] == global_batches(2, first) == global_batches(4, first)


@pytest.mark.parametrize("first", range(0, 24, 3))
def test_an_epoch_goes_on_at_any_row(first):
    whole = [row for batch in BatchOrder(23, 1, shuffle=True, seed=2).batches() for row in batch]
    for batch_size, num_processes in [(4, 1), (2, 2), (5, 3)]:
        orders = shares(23, batch_size, num_processes, shuffle=True, seed=2)
        left = [order.batches(first) for order in orders]
        assert {len(own) for own in left} == {orders[0].num_batches(first)}
        counted = [
            r for o, own in zip(orders, left, strict=True) for b in own[: len(own) - o.has_spare_from(first)] for r in b
        ]
        assert sorted(counted) == sorted(whole[first:])


@pytest.mark.parametrize(("num_rows", "batch_size", "num_processes"), SIZES)
def test_evaluation_repeats_a_row_only_where_a_process_would_have_an_empty_batch(num_rows, batch_size, num_processes):
    orders = shares(num_rows, batch_size, num_processes)
    rows = [r for order in orders for batch in order.batches() for r in batch]
    counted = [r for order in orders for b in order.batches()[: len(order) - order.has_spare] for r in b]
    assert sorted(counted) == list(range(num_rows))
    if batch_size > 1 and num_rows >= num_processes:
        assert sorted(rows) == list(range(num_rows))
    else:
        assert len(rows) - num_rows < num_processes


def test_one_process_keeps_the_data_s_order_in_evaluation():
    rows = [row for batch in BatchOrder(10, 4).batches() for row in batch]
    assert rows == list(range(10))


def test_shuffles_differ_by_epoch_and_seed_and_repeat_by_both():
    order = BatchOrder(50, 8, shuffle=True, seed=1)
    first = order.batches()
    order.set_epoch(1)
    second = order.batches()
    assert first != second
    order.set_epoch(0)
    assert order.batches() == first
    assert BatchOrder(50, 8, shuffle=True, seed=2).batches() not in (first, second)
    assert first != [list(range(i, min(i + 8, 50))) for i in range(0, 50, 8)]


def test_processes_share_one_shuffle():
    whole = [row for batch in BatchOrder(12, 3, shuffle=True, seed=5).batches() for row in batch]
    parts = [[row for batch in order.batches() for row in batch] for order in shares(12, 3, 2, shuffle=True, seed=5)]
    assert whole == [row for pair in zip(*parts, strict=True) for row in pair]


def test_training_has_a_spare_batch_only_where_the_last_global_batch_is_too_small_for_all():
    assert [order.has_spare for order in shares(3, 1, 2, shuffle=True)] == [False, True]
    assert [order.has_spare for order in shares(3, 2, 2, shuffle=True)] == [False, False]
    assert [order.has_spare for order in shares(5, 2, 2, shuffle=True)] == [False, True]
