"""Batches by length: less padding, every row once, and a resumed epoch that leaves nothing out."""

import random
from itertools import pairwise, zip_longest

import pytest

from wegeft_pl.data.grouping import GroupedOrder
from wegeft_pl.data.loader import EpochLoader
from wegeft_pl.data.order import BatchOrder

DRAW = random.Random(1)
LENGTHS = [DRAW.randint(1, 500) for _ in range(1003)]


def make(batch_size=4, num_processes=1, rank=0, seed=0, epoch=0, shuffle=True, kind=GroupedOrder):
    first = LENGTHS if kind is GroupedOrder else len(LENGTHS)
    order = kind(first, batch_size, shuffle, seed, num_processes, rank)
    order.set_epoch(epoch)
    return order


def padding(batches):
    padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in batches)
    return 1 - sum(LENGTHS[row] for batch in batches for row in batch) / padded


def test_every_row_is_in_one_batch_and_padding_shrinks():
    grouped, plain = make().batches(), make(kind=BatchOrder).batches()
    assert sorted(row for batch in grouped for row in batch) == list(range(1003))
    assert [len(batch) for batch in grouped] == [4] * 250 + [3]
    assert padding(plain) > 0.3
    assert padding(grouped[:-1]) < 0.02


def test_batches_are_in_no_order_of_length():
    longest = [max(LENGTHS[row] for row in batch) for batch in make().batches()[:-1]]
    rising = sum(a < b for a, b in pairwise(longest))
    assert 0.4 * len(longest) < rising < 0.6 * len(longest)


def test_epochs_and_seeds_differ_and_repeat():
    assert make().batches() == make().batches()
    assert len({str(make(seed=seed, epoch=epoch).batches()) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert make(shuffle=False).batches() == make(shuffle=False, kind=BatchOrder).batches()


@pytest.mark.parametrize("first", [0, 8, 400])
def test_the_same_rows_make_a_global_batch_on_any_number_of_processes(first):
    def global_batches(num_processes):
        orders = [make(8 // num_processes, num_processes, rank) for rank in range(num_processes)]
        own = [order.batches(first) for order in orders]
        kept = [b[: len(b) - order.has_spare_from(first)] for b, order in zip(own, orders, strict=True)]
        return [sorted(row for batch in place for row in batch) for place in zip_longest(*kept, fillvalue=())]

    assert global_batches(1) == global_batches(2) == global_batches(4)
    assert global_batches(2) == [sorted(batch) for batch in make(8).batches()[first // 8 :]]


def loader(**fields):
    class Rows:
        def __getitem__(self, row):
            return row

    return EpochLoader(Rows(), make(**fields), list)


@pytest.mark.parametrize("then", [{}, {"batch_size": 2, "num_processes": 2}, {"batch_size": 10}])
def test_a_resumed_epoch_has_the_rows_that_were_left(then):
    whole = [row for batch in loader() for row in batch]
    first = loader()
    batches = iter(first)
    had = [row for _ in range(100) for row in next(batches)]
    state = first.state_dict()
    assert state == {"epoch": 0, "rows": 400, "global_batch": 4, "group_rows": 4}
    rest = []
    for rank in range(then.get("num_processes", 1)):
        second = loader(**then, rank=rank)
        second.load_state_dict(state)
        rest += [row for batch in second for row in batch]
        # A second resume of the same epoch keeps the order too; the next epoch has groups of its own size.
        assert second.state_dict()["group_rows"] == 4
        second.batch_sampler.set_epoch(1)
        assert second.state_dict()["group_rows"] == second.state_dict()["global_batch"]
    assert sorted(had + rest) == list(range(1003))
    assert had == whole[:400]
    if not then:
        assert rest == whole[400:]


def test_batches_of_another_size_pad_little_as_well():
    order = make(10)
    order.load_state_dict({"epoch": 0, "group_rows": 4})
    assert padding(order.batches(400)) < padding(make(10, kind=BatchOrder).batches(400))
