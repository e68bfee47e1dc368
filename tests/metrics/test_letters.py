"""Letters on the forms that models give them."""

import pytest

from wegeft_pl.metrics import choice_letter, first_letter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("so (C), not D", "C"),
        ("Answer: B", "A"),  # the protocol takes the first letter, wherever it stands
        ("the box", None),
        ("F", None),
        ("b", None),
        ("", None),
        ("\uff21", None),  # a full-width A
        ("\n\nE.", "E"),
    ],
)
def test_the_first_letter(text, expected):
    assert first_letter(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is (B).", "B"),
        ("The answer is B.", "B"),
        ("the answer is b", "B"),
        ("the answer is (d)", "D"),
        ("Answer: C", "C"),
        ("ANSWER C", "C"),
        ("The answer is option A", "A"),
        ("the answer is choice (e).", "E"),
        ("The answer is (A). No, wait: the answer is (C).", "C"),
        ("so I take (B)", "B"),
        ("B) 12 apples", "B"),
        ("(A) 1 (B) 2, and it is (A)", "A"),
        ("d.", "D"),
        (" E ", "E"),
        ("A car drives east", None),
        ("The answer is a car", None),
        ("the answer is Bob", None),
        ("The answer is A's", None),
        ("Answer Choices: none", None),
        ("BAD", None),
        ("The answer is 12", None),
        ("(F)", None),
        ("", None),
        ("the answer is", None),
    ],
)
def test_the_letter_given_as_the_answer(text, expected):
    assert choice_letter(text) == expected
