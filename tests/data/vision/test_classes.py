"""Lists of classes that do not hold, and rows of no class."""

from __future__ import annotations

from pathlib import Path

import pytest

from wegeft_pl.data.vision.classes import Classes, taken_in_turn
from wegeft_pl.data.vision.stored import ImageFile, ImageRow


def test_numbers():
    classes = Classes(("7", "3"), ("seven", "three"))
    assert [classes.number_of(ImageRow(ImageFile(Path("a")), label, "list:1", "a")) for label in "373"] == [1, 0, 1]
    with pytest.raises(
        ValueError, match=r"list:9: the class '8' is not among the 2 classes .*\(7, 3\); correct the row, or the tr"
    ):
        classes.number_of(ImageRow(ImageFile(Path("a")), "8", "list:9", "a"))


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (("a", "b", "a"), ("a", "b", "a"), "the class 'a' is in the list of classes twice"),
        (("a",), ("a",), "two classes are the least, got 'a'"),
        (("a", "b"), ("x",), "there are 1 names for 2 classes"),
    ],
)
def test_what_is_no_list_of_classes(labels, names, message):
    with pytest.raises(ValueError, match=message):
        Classes(labels, names)


def test_taken_in_turn():
    labels = [0] * 5 + [1] * 3 + [2]
    assert taken_in_turn(labels, None) == list(range(9))
    assert taken_in_turn(labels, 100) == list(range(9))
    assert taken_in_turn(labels, 5) == [0, 1, 5, 6, 8]
