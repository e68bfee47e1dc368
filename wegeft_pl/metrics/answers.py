"""Answer extraction: pure functions from generated text to a normalised answer, or None where there is none."""

from __future__ import annotations

import re
from decimal import Decimal

# A sign and a currency sign in either order, then digits. After the marker every comma is a thousands separator, as in
# the data set's own scorer; in free text a comma counts only between groups of three, so that "1,2,3" is a list.
_SIGN = r"(?P<sign>[-+]?\s?\$?|\$\s?[-+]?)"
_STRICT = re.compile(_SIGN + r"(?P<digits>[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)")
_FREE = re.compile(
    r"(?:(?<![\w.)])" + _SIGN + r")?(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]*\.?[0-9]+)"
)


def normalise_number(text: str) -> str | None:
    """Writes a number in one canonical way: no separators, currency signs, leading or trailing zeros.

    Args:
        text: a number such as ``"$1,000."``; surrounding space is ignored.

    Returns:
        The canonical decimal, exact for any number of digits, or None when ``text`` is not one number.

    Example:
        >>> [normalise_number(text) for text in ("1,000", "$1000.0", "-0.50", "+.5", "007.", "-0")]
        ['1000', '1000', '-0.5', '0.5', '7', '0']
        >>> [normalise_number(text) for text in ("", "twelve", "3 4", "1/2")]
        [None, None, None, None]
    """
    match = _STRICT.fullmatch(text.strip().removesuffix("."))
    return None if match is None else _canonical(match)


def gsm8k_strict(text: str) -> str | None:
    """Extracts the first number that directly follows a ``####``: GSM8K's own answer format.

    The first one, as the data set's own scorer and lm-evaluation-harness do: an answer ends there, and a model that
    writes on, with a next question and its answer, has not changed its answer to this one.

    Args:
        text: a gold answer or a generated one.

    Returns:
        The normalised number, or None when no marker has a number behind it.

    Example:
        >>> gsm8k_strict("48 + 24 = 72\\n#### 1,072."), gsm8k_strict("#### $-2.50\\nQuestion: 1 + 1?\\n#### 2")
        ('1072', '-2.5')
        >>> gsm8k_strict("The answer is 72"), gsm8k_strict("#### seventy-two")
        (None, None)

    Source: METHOD.md section 8.
    """
    for tail in text.split("####")[1:]:
        match = _STRICT.match(tail.strip())
        if match is not None:
            return _canonical(match)
    return None


def last_number(text: str) -> str | None:
    """Extracts the last number anywhere in the text: the flexible score beside :func:`gsm8k_strict`.

    Args:
        text: a generated answer.

    Returns:
        The normalised number, or None when the text has none.

    Example:
        >>> last_number("She pays $1,000.50 in all."), last_number("10-3 = 7"), last_number("it fell to -4")
        ('1000.5', '7', '-4')
        >>> last_number("of 1,2,3"), last_number("none")
        ('3', None)

    Source: METHOD.md section 8.
    """
    matches = list(_FREE.finditer(text))
    return _canonical(matches[-1]) if matches else None


def last_number_without_commas(text: str) -> str | None:
    """Extracts the last number after every comma is removed: how the LLM-Adapters arithmetic sets are scored.

    Unlike :func:`last_number` it takes a hyphen for a minus wherever it stands and glues "1,2" together, because scores
    of other people were counted that way.

    Args:
        text: a generated answer.

    Returns:
        The normalised number, or None when the text has none.

    Example:
        >>> last_number_without_commas("She pays $1,000.50 in all."), last_number_without_commas("it is 10-3")
        ('1000.5', '-3')
        >>> last_number_without_commas("half, or 1/2"), last_number_without_commas("none")
        ('2', None)

    Source: METHOD.md section 8.
    """
    found = re.findall(r"-?[0-9]+\.?[0-9]*", text.replace(",", ""))
    return normalise_number(found[-1]) if found else None


def numbers_equal(a: str, b: str, tolerance: float = 0.0) -> bool:
    """Compares two numbers by value, exactly unless a tolerance is given.

    Args:
        a: a number as text, in any form that :func:`normalise_number` reads.
        b: the other number.
        tolerance: largest absolute difference that still counts as equal.

    Returns:
        True when both are numbers and differ by at most ``tolerance``; False otherwise, also for two equal words.

    Example:
        >>> numbers_equal("1,000", "1000.0"), numbers_equal("0.333", "1/3"), numbers_equal("2.0005", "2", 1e-3)
        (True, False, True)
    """
    number_a, number_b = normalise_number(a), normalise_number(b)
    if number_a is None or number_b is None:
        return False
    return number_a == number_b or abs(Decimal(number_a) - Decimal(number_b)) <= Decimal(str(tolerance))


def _canonical(match: re.Match[str]) -> str:
    negative = "-" in (match["sign"] or "")
    digits = format(Decimal(match["digits"].replace(",", "")), "f")  # exact: no context rounding, no exponent
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return f"-{digits}" if negative and digits.strip("0.") else digits
