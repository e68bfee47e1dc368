"""How one score reads an answer: extraction, comparison, and the task whose rows it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wegeft_pl.metrics.answers import numbers_equal


@dataclass(frozen=True)
class AnswerRule:
    """One score of generated answers.

    Args:
        extract: takes a generated text, gives its answer or None; None counts as wrong.
        equal: compares an extracted answer with a reference.
        task: the task whose rows are scored; None: every row.
        in_mean: whether the score is its task's own and counts in the mean over tasks.

    Example:
        >>> rule = AnswerRule(str.strip, str.__eq__, task="boolq", in_mean=True)
        >>> rule(" true "), rule.covers("boolq"), rule.covers("piqa"), rule.covers(None)
        ('true', True, False, False)
    """

    extract: Callable[[str], str | None]
    equal: Callable[[str, str], bool] = numbers_equal
    task: str | None = None
    in_mean: bool = False

    def __call__(self, text: str) -> str | None:
        """Extracts the answer."""
        return self.extract(text)

    def covers(self, task: str | None) -> bool:
        """Whether a row of this task is scored."""
        return self.task is None or self.task == task
