r"""Answers of the MATH set: what the last ``\boxed{...}`` holds, and a comparison of LaTeX as normalised text."""

from __future__ import annotations

import re

from wegeft_pl.metrics.answers import normalise_number

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$]+)")
#: Layout that changes nothing about a value, each with what stands for it.
_LAYOUT = (
    (re.compile(r"\\(?:left|right|displaystyle|,|!|;|:|\s)(?![A-Za-z])"), ""),
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text|textbf|mbox|mathrm|textrm)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\%|%|\\\$|\$"), ""),
    (re.compile(r"\\(frac|sqrt)\s*([0-9A-Za-z])"), r"\\\1{\2}"),
    (re.compile(r"(\\frac\{[^{}]*\})\s*([0-9A-Za-z])"), r"\1{\2}"),
    (re.compile(r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?![\d,])"), lambda match: match[1].replace(",", "")),
)
_PLAIN_FRACTION = re.compile(r"(-?)(\d+)/(\d+)")


def last_boxed(text: str) -> str | None:
    r"""Extracts the content of the last closed ``\boxed{...}``, whose braces are balanced.

    Escaped braces (``\{``) are letters of the content and open nothing. A box that a length limit cut open holds no
    answer, so the one before it counts. ``\fbox{...}`` and ``\boxed 5`` are read too, as the data set has both.

    Args:
        text: a solution, gold or generated.

    Returns:
        The content without space around it, or None when there is no closed box or nothing in it.

    Example:
        >>> last_boxed(r"so \boxed{\frac{1}{2}}."), last_boxed(r"\boxed{1}, no: \boxed{2}")
        ('\\frac{1}{2}', '2')
        >>> last_boxed(r"\boxed{\frac{1}{2}"), last_boxed("1/2")
        (None, None)

    Source: METHOD.md section 8.
    """
    found = [(match.start(), content) for match in _BOX.finditer(text) if (content := _braced(text, match.end()))]
    found += [(match.start(), match[1].rstrip(".,")) for match in _BARE_BOX.finditer(text)]
    contents = [content.strip() for _, content in sorted(found) if content.strip()]
    return contents[-1] if contents else None


def normalise_latex(text: str) -> str:
    r"""Writes an answer without layout: no space, no ``\left``, one kind of fraction, no units of degree or percent.

    Args:
        text: the content of a box.

    Returns:
        Text to be compared letter by letter.

    Example:
        >>> normalise_latex(r"\left( 3, \dfrac{\pi}{2} \right)"), normalise_latex("1/2"), normalise_latex(r"\frac12")
        ('(3,\\frac{\\pi}{2})', '\\frac{1}{2}', '\\frac{1}{2}')
        >>> normalise_latex(r"1,000\%"), normalise_latex(r"\text{Evelyn}."), normalise_latex("0.50")
        ('1000', 'Evelyn', '0.5')
    """
    text = text.strip().rstrip(".")
    for pattern, replacement in _LAYOUT:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\s+", "", text)
    fraction = _PLAIN_FRACTION.fullmatch(text)
    if fraction is not None:
        return f"{fraction[1]}\\frac{{{fraction[2]}}}{{{fraction[3]}}}"
    # A comma that is left separates two numbers.
    return text if "," in text else normalise_number(text) or text


def same_latex(a: str, b: str) -> bool:
    r"""Compares two answers as normalised text.

    It knows no algebra: ``2x`` and ``x + x`` differ; see :mod:`wegeft_pl.metrics.math_equivalence` for a judge that
    does.

    Example:
        >>> same_latex(r"\dfrac 12", "1/2"), same_latex("0.50", ".5"), same_latex("2x", "x+x")
        (True, True, False)
    """
    return normalise_latex(a) == normalise_latex(b)


def _braced(text: str, start: int) -> str | None:
    """What stands between the brace at ``start`` and the one that closes it; None where none does."""
    depth, position = 0, start
    while position < len(text):
        letter = text[position]
        if letter == "\\":
            position += 1  # an escaped brace opens and closes nothing
        elif letter == "{":
            depth += 1
        elif letter == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : position]
        position += 1
    return None
