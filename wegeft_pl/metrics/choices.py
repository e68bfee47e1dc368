"""Named choices such as ``true`` or ``answer2``: pure functions from generated text to the choice, or None."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What announces the answer in the commonsense sets.
MARKER = "the correct answer is"


def after_marker(text: str) -> str | None:
    """Extracts all that follows the last ``the correct answer is``, without the space around it.

    The whole rest counts, so that an exact comparison fails for a model that goes on after its answer.

    Args:
        text: a generated answer.

    Returns:
        The rest of the text, or None without the marker or with nothing behind it.

    Example:
        >>> after_marker("the correct answer is true"), after_marker("the correct answer is false, or true")
        ('true', 'false, or true')
        >>> after_marker("true"), after_marker("the correct answer is ")
        (None, None)

    Source: METHOD.md section 8.
    """
    _, marker, rest = text.rpartition(MARKER)
    return (rest.strip() or None) if marker else None


def first_choice(text: str, choices: Sequence[str]) -> str | None:
    """Extracts the first of the named choices anywhere in a text: how LLM-Adapters itself scores.

    Args:
        text: a generated answer.
        choices: the names, none of which begins another.

    Returns:
        The choice, or None when the text has none.

    Example:
        >>> first_choice("I think answer2, not answer1", ["answer1", "answer2"])
        'answer2'
        >>> first_choice("neither", ["true", "false"]) is None
        True
    """
    match = re.search("|".join(map(re.escape, choices)), text)
    return None if match is None else match[0]


def same_text(a: str, b: str) -> bool:
    """Compares two answers letter by letter, apart from space around them.

    Example:
        >>> same_text("true", " true"), same_text("True", "true")
        (True, False)
    """
    return a.strip() == b.strip()
