"""Named choices of the commonsense sets."""

import pytest

from wegeft_pl.metrics import after_marker, first_choice, same_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the correct answer is true", "true"),
        ("the correct answer is  answer2 \n", "answer2"),
        ("the correct answer is true\n\nthe correct answer is false", "false"),
        ("the correct answer is true.", "true."),  # the whole rest counts, so this will not be equal to true
        ("the correct answer istrue", "true"),
        ("The correct answer is true", None),
        ("true", None),
        ("the correct answer is", None),
        ("the correct answer is \n ", None),
        ("", None),
    ],
)
def test_what_follows_the_last_marker(text, expected):
    assert after_marker(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the correct answer is option2", "option2"),
        ("option2 option1", "option2"),
        ("Option1", None),
        ("option3", None),
        ("option 1", None),
        ("", None),
    ],
)
def test_the_first_choice(text, expected):
    assert first_choice(text, ["option1", "option2"]) == expected


def test_choices_are_names_not_patterns():
    assert first_choice("ab", ["a."]) is None


def test_texts_are_equal_letter_by_letter():
    assert same_text("a ", "a")
    assert not same_text("a", "A")
    assert not same_text("true.", "true")
