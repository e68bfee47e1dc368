"""Answer extraction on the forms that models and gold answers take."""

from fractions import Fraction

import pytest

from wegeft_pl.metrics import (
    gsm8k_strict,
    last_number,
    last_number_without_commas,
    normalise_number,
    numbers_equal,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She has 48 + 24 = 72.\n#### 72", "72"),
        ("#### 1,000", "1000"),
        ("#### $1,234.50.", "1234.5"),
        ("####72", "72"),
        ("#### -3", "-3"),
        ("#### -$3", "-3"),
        ("#### $ 3", "3"),
        ("#### 5 apples", "5"),
        ("#### 18\n\nand so on, 20", "18"),
        ("#### 1\n#### 2", "1"),
        ("#### 7\n\nQuestion: 1 + 1?\nAnswer:\n#### 2", "7"),
        ("#### so #### 7", "7"),
        ("#### 109,200,000", "109200000"),
        ("#### .5", "0.5"),
        ("#### 007", "7"),
        ("", None),
        ("72", None),
        ("### 72", None),
        ("####", None),
        ("#### x = 7", None),
        ("#### 1 ####", "1"),
        ("########7", "7"),
        ("#### -", None),
        ("#### ,5", None),
    ],
)
def test_strict(text, expected):
    assert gsm8k_strict(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 72.", "72"),
        ("It costs $1,000.50.", "1000.5"),
        ("#### 72", "72"),
        ("5-3=2", "2"),
        ("we get 5-3", "3"),
        ("x=-4", "-4"),
        ("from 3 to -4.0 degrees", "-4"),
        ("1, 2, 3", "3"),
        ("1,2,34", "34"),
        ("12,345", "12345"),
        ("12,3456", "3456"),
        ("v1.5", "1.5"),
        ("a half, .5", "0.5"),
        ("20%", "20"),
        ("3/4", "4"),
        ("no digits", None),
        ("", None),
        ("- , $ .", None),
    ],
)
def test_flexible(text, expected):
    assert last_number(text) == expected


@pytest.mark.parametrize(
    "text", ["1000", "1,000", "1000.0", "1000.", "$1,000", " 1000 ", "+1000", "01000", "1000.000", "$1,000.00."]
)
def test_the_many_ways_to_write_a_thousand(text):
    assert normalise_number(text) == "1000"
    assert numbers_equal(text, "1000")


def test_normalising_is_exact_for_any_number_of_digits():
    digits = "123456789" * 10
    assert normalise_number(digits) == digits
    assert normalise_number(f"0.{digits}0") == f"0.{digits}"
    assert not numbers_equal(digits, digits[:-1] + "8")


@pytest.mark.parametrize("text", ["0", "-0", "0.0", "-0.00", "000"])
def test_zero_has_one_form(text):
    assert normalise_number(text) == "0"


def test_values_agree_with_exact_fractions():
    for text in ("3", "-3", "3.25", "-0.125", "1,024.5", "$7"):
        assert Fraction(normalise_number(text)) == Fraction(text.replace(",", "").replace("$", ""))


def test_equality_with_a_tolerance():
    assert numbers_equal("3.3333", "3.333", tolerance=1e-3)
    assert not numbers_equal("3.335", "3.333", tolerance=1e-3)
    assert numbers_equal("2.001", "2", tolerance=1e-3)  # the bound itself counts, without binary rounding
    assert not numbers_equal("2.0011", "2", tolerance=1e-3)


def test_what_is_no_number_equals_nothing():
    assert not numbers_equal("seven", "seven")
    assert not numbers_equal("", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 72.", "72"),
        ("It costs $1,000.50.", "1000.5"),
        ("so -3", "-3"),
        ("it is 10-3", "-3"),  # the protocol's own reading of a hyphen
        ("$5.", "5"),
        ("5%", "5"),
        ("1/2", "2"),
        ("1, 2, 3", "3"),
        ("1,2", "12"),
        ("first 4, then 5, so 6 or 7", "7"),
        ("x1y", "1"),
        ("007", "7"),
        ("3..", "3"),
        ("-", None),
        (".", None),
        ("", None),
        ("none", None),
        ("\u0663", None),  # a digit, but none of ours
        ("\u00b2", None),
    ],
)
def test_the_last_number_without_commas(text, expected):
    assert last_number_without_commas(text) == expected
