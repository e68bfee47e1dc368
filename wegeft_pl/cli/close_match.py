"""The nearest known word to a misspelt one, as the tail of an error message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggests the known word that is closest to a misspelt one.

    Args:
        word: what the user wrote.
        known: the words that would have been accepted.

    Returns:
        ``"; did you mean 'trainer'?"``, or an empty string when nothing is close.

    >>> did_you_mean("trianer", ["trainer", "model"])
    "; did you mean 'trainer'?"
    >>> did_you_mean("zzz", ["trainer", "model"])
    ''
    """
    spelling = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), spelling, n=1, cutoff=0.6)
    return f"; did you mean {spelling[close[0]]!r}?" if close else ""
