"""Labels as classes or numbers, and rows that lack one."""

from __future__ import annotations

import pytest

from wegeft_pl.data.class_labels import class_index, class_list, counts_text, kind_of, label_of, number_of, text_of
from wegeft_pl.data.delimited import TableRow


def row(text: object = "a", label: object = "x") -> TableRow:
    return TableRow({"text": text, "label": label}, "dev.csv:7")


@pytest.mark.parametrize(
    ("value", "label"),
    [("pos", "pos"), (" pos ", "pos"), (3, "3"), (3.0, "3"), (2.5, "2.5"), (True, "True"), ("1.0", "1.0")],
)
def test_labels_are_names(value: object, label: str) -> None:
    assert label_of(row(label=value), "label") == label


@pytest.mark.parametrize("value", [None, "", "  ", "nan", "NaN", float("nan")])
def test_a_missing_label_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"^dev.csv:7: the label in column 'label' is missing; fill it in or remove"):
        label_of(row(label=value), "label")


@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_other_labels_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^dev.csv:7: a label must be a text or a number, got .*data.label_column$"):
        label_of(row(label=value), "label")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "is missing"),
        (float("nan"), "is missing"),
        ("", "is empty"),
        (" \n", "is empty"),
        (3, "must hold text, got 3; see data.text_column"),
    ],
)
def test_a_text_is_a_text(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^dev.csv:7: .*{message}"):
        text_of(row(text=value), "text")
    assert text_of(row(text="nan"), "text") == "nan"
    assert text_of(row(text=" "), "text", may_be_empty=True) == " "


@pytest.mark.parametrize("value", ["good", "inf", float("inf"), "1,5"])
def test_numbers_to_predict_are_finite(value: object) -> None:
    with pytest.raises(ValueError, match=r"^dev.csv:7: data.task regression needs a finite number as label"):
        number_of(row(label=value), "label")
    assert number_of(row(label="-2.5e1"), "label") == -25.0


def test_one_kind_for_all_labels() -> None:
    assert kind_of(["1", "2", "3.25"]) == "regression"
    assert kind_of(["1.0", "2.0"]) == "classification"
    assert kind_of(["1.5", "2.5", "none"]) == "classification"


def test_classes_are_sorted_and_at_least_two() -> None:
    assert class_list(["2", "10", "1", "2"], "data") == ["1", "2", "10"]
    assert class_list(["b", "a", "10"], "data") == ["10", "a", "b"]
    with pytest.raises(ValueError, match=r"^data: all training rows have the label 'x'; two classes are the least$"):
        class_list(["x", "x"], "data")


def test_a_label_that_train_has_not_is_named() -> None:
    assert class_index(row(label="b"), "label", ["a", "b"]) == 1
    with pytest.raises(ValueError, match=r"^dev.csv:7: the label 'x' is in no training row; train has 0, .*, 7, ...$"):
        class_index(row(), "label", [str(number) for number in range(20)])


def test_many_classes_are_counted_in_one_line() -> None:
    labels = [str(number) for number in range(40)]
    assert counts_text(labels + ["3"], labels).endswith("11: 1, and 28 classes more, 1 at least (largest class 4.9 %)")
