"""Letters of multiple-choice answers: pure functions from generated text to A, B, C, D or E, or None."""

from __future__ import annotations

import re

#: Where an answer is announced, and the letter right behind it. A small letter alone may be the article, so it counts
#: only in brackets or where nothing follows on its line.
_ANNOUNCED = re.compile(
    r"\banswer(?:\s+is)?\s*:?\s*(?:(?:option|choice)\s+)?"
    r"(?:\(\s*(?P<bracketed>[A-Ea-e])\s*\)|(?P<capital>[A-E])(?![\w'])|(?P<small>[a-e])(?=[.)\]\s]*(?:\n|\Z)))",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"(?<!\w)\(?([A-E])\)")
_ALONE = re.compile(r"\s*([A-Ea-e])\s*\.?\s*")


def first_letter(text: str) -> str | None:
    """Extracts the first capital A to E anywhere, inside words too: how LLM-Adapters scores AQuA.

    The rule reads the A of "Answer: B". It is the published protocol; :func:`choice_letter` is the careful reading.

    Args:
        text: a generated answer.

    Returns:
        One letter, or None when there is none.

    Example:
        >>> first_letter("so it is (B) or C"), first_letter("Answer: B"), first_letter("b")
        ('B', 'A', None)

    Source: METHOD.md section 8.
    """
    match = re.search("[A-E]", text)
    return None if match is None else match[0]


def choice_letter(text: str) -> str | None:
    """Extracts the letter that a text gives as its answer, never one out of a word.

    The last letter behind the word "answer" ("answer is (B)", "Answer: B"); else the last one before a closing bracket
    ("(B)", "B)"); else the whole text where it is one letter.

    Args:
        text: a generated answer.

    Returns:
        A capital letter, or None when no letter stands for an answer.

    Example:
        >>> [choice_letter(text) for text in ("The answer is (B).", "Answer: b", "I pick C) 5", "d.")]
        ['B', 'B', 'C', 'D']
        >>> choice_letter("A car drives on Elm Street"), choice_letter("The answer is a car")
        (None, None)
    """
    announced = [match for match in _ANNOUNCED.finditer(text) if _is_letter(match)]
    if announced:
        return _letter_of(announced[-1])
    bracketed = _BRACKETED.findall(text)
    if bracketed:
        return bracketed[-1]
    alone = _ALONE.fullmatch(text)
    return None if alone is None else alone[1].upper()


def _is_letter(match: re.Match[str]) -> bool:
    # IGNORECASE lets the group of capitals match small letters, which only the other two may.
    return match["capital"] is None or match["capital"].isupper() or match.string[match.end() :].strip(" .)]") == ""


def _letter_of(match: re.Match[str]) -> str:
    return (match["bracketed"] or match["capital"] or match["small"]).upper()
