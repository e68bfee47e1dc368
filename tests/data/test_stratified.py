"""Held-out rows in which the classes keep their shares."""

from __future__ import annotations

from collections import Counter

import pytest

from wegeft_pl.data.stratified import stratified_parts

LABELS = ["a"] * 70 + ["b"] * 20 + ["c"] * 9 + ["d"]


def test_shares_are_kept_and_nothing_is_in_two_parts() -> None:
    test, val = stratified_parts(LABELS, [20, 10], seed=1)
    assert Counter(LABELS[row] for row in test) == {"a": 14, "b": 4, "c": 2}
    assert Counter(LABELS[row] for row in val) == {"a": 7, "b": 2, "c": 1}
    assert not set(test) & set(val)
    assert (test, val) == (sorted(test), sorted(val))


def test_the_draw_is_seeded_and_the_first_part_does_not_depend_on_the_second() -> None:
    first = stratified_parts(LABELS, [20, 10], seed=1)
    assert stratified_parts(LABELS, [20, 10], seed=1) == first
    assert stratified_parts(LABELS, [20, 10], seed=2) != first
    assert stratified_parts(LABELS, [20, 30], seed=1)[0] == first[0]
    assert stratified_parts(LABELS, [20, 0], seed=1) == [first[0], []]


def test_every_class_keeps_a_row_for_training() -> None:
    (part,) = stratified_parts(LABELS, [96], seed=0)
    assert {LABELS[row] for row in set(range(100)) - set(part)} == set("abcd")
    with pytest.raises(
        ValueError, match=r"at most 96 of 100 rows can be held out, so that each of 4 classes keeps one"
    ):
        stratified_parts(LABELS, [90, 7], seed=0)


def test_the_rows_of_a_class_are_drawn_at_random() -> None:
    (part,) = stratified_parts(["a"] * 100, [10], seed=0)
    assert part != list(range(10))
    assert max(part) > 50
