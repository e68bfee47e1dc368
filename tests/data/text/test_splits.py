"""Rows held out of train: seeded, disjoint, complete, in the file's order."""

import time

import pytest

from wegeft_pl.data.rows import Row
from wegeft_pl.data.text.splits import hold_out


def rows(number):
    return [(i, Row({"question": str(i)}, f"line {i}")) for i in range(number)]


@pytest.mark.parametrize(("val_size", "test_size"), [(0, 0), (1, 0), (0, 1), (30, 50), (1, 298)])
def test_splits_are_disjoint_complete_and_in_order(val_size, test_size):
    split = hold_out({"train": rows(300)}, val_size, test_size, seed=1, name="x")
    numbers = {name: [number for number, _ in own] for name, own in split.items()}
    assert (len(numbers["val"]), len(numbers["test"])) == (val_size, test_size)
    assert sorted(numbers["train"] + numbers["val"] + numbers["test"]) == list(range(300))
    assert all(own == sorted(own) for own in numbers.values())


def test_the_test_rows_do_not_depend_on_the_validation_size():
    tests = [hold_out({"train": rows(300)}, size, 5, seed=1, name="x")["test"] for size in (0, 1, 50, 200)]
    assert all(test == tests[0] for test in tests)
    assert hold_out({"train": rows(300)}, 0, 5, seed=2, name="x")["test"] != tests[0]


def test_splits_of_the_data_itself_stay():
    split = hold_out({"train": rows(5), "test": rows(3)}, 2, 0, seed=1, name="x")
    assert split["test"] == rows(3)
    assert len(split["val"]) == 2


def test_errors():
    with pytest.raises(ValueError, match=r"data.test_size=1 holds rows out of train, but x has test rows of its own"):
        hold_out({"train": rows(5), "test": rows(3)}, 0, 1, seed=1, name="x")
    with pytest.raises(ValueError, match=r"data.val_size=2 and data.test_size=3 leave no training row of 5; lower"):
        hold_out({"train": rows(5)}, 2, 3, seed=1, name="x")


def test_many_rows_take_no_time():
    many = rows(20_000)
    started = time.process_time()
    hold_out({"train": many}, 5_000, 5_000, seed=1, name="x")
    assert time.process_time() - started < 1.0  # a set made anew for every row: many seconds
