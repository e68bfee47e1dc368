"""How numbers are written for people; files hold the plain numbers."""

from __future__ import annotations

from collections.abc import Mapping

#: Scores that are not fractions; every other score is shown in percent.
PLAIN_SCORES = ("loss", "perplexity")


def duration_text(seconds: float) -> str:
    """Writes a duration.

    Example:
        >>> duration_text(4.25), duration_text(74), duration_text(7384)
        ('4.2 s', '1 min 14 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent_text(percent: float) -> str:
    """Writes a percentage with the digits that small ones need.

    Example:
        >>> percent_text(0.01561), percent_text(4.21), percent_text(250.0)
        ('0.0156 %', '4.21 %', '250 %')
    """
    return f"{percent:.3g} %"


def score_text(name: str, value: float) -> str:
    """Writes one score: losses as they are, fractions in percent.

    Example:
        >>> score_text("exact_match", 0.875), score_text("perplexity", 17.6132)
        ('87.5 %', '17.613')
    """
    if name in PLAIN_SCORES:
        return f"{value:.5g}"
    return f"{100 * value:.1f} %"


def scores_text(scores: Mapping[str, float]) -> str:
    """Writes scores on one line, answers before losses.

    Example:
        >>> scores_text({"loss": 1.5, "exact_match": 0.5})
        'exact_match 50.0 %, loss 1.5'
    """
    ordered = sorted(scores, key=lambda name: name in PLAIN_SCORES)
    return ", ".join(f"{name} {score_text(name, scores[name])}" for name in ordered)
