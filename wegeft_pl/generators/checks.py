"""Checks of a generator's options, whose values come from recipes."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def check_count(name: str, value: object, least: int = 1) -> None:
    """Accepts an integer of at least ``least``.

    Raises:
        ValueError: the value is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Accepts one of the allowed words.

    Raises:
        ValueError: the value is none of them.
    """
    if value not in allowed:
        close = get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}{hint}")


def check_switch(name: str, value: object) -> None:
    """Accepts true or false.

    Raises:
        ValueError: the value is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def check_number(name: str, value: object, least: float, below: float) -> None:
    """Accepts a number in [least, below).

    Raises:
        ValueError: the value is no number, or outside.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < below:
        raise ValueError(f"{name} must lie in [{least:g}, {below:g}), got {value!r}")
