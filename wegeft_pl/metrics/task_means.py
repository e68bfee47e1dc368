"""The mean over tasks, each of which counts alike however many rows it has."""

from __future__ import annotations

import math
from collections.abc import Mapping


def mean_over_tasks(scores: Mapping[str, float]) -> float | None:
    """Averages the scores of tasks.

    Args:
        scores: task to score; NaN where a task had no row, which is left out.

    Returns:
        The arithmetic mean, or None where no task had a row.

    Example:
        >>> mean_over_tasks({"boolq": 0.5, "piqa": 1.0, "hellaswag": float("nan")})
        0.75
        >>> mean_over_tasks({}) is None
        True

    Source: METHOD.md section 6.
    """
    found = [score for score in scores.values() if not math.isnan(score)]
    return sum(found) / len(found) if found else None
