"""What is tried, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["passed", "failed", "error", "timeout", "killed"]


@dataclass(frozen=True)
class Trial:
    """A program and its tests.

    Args:
        program: source text under test, trusted in nothing.
        tests: source text that runs to its end if, and only if, the program is right; trusted.
        names: what the tests take from the program: functions, classes. Any other name is Python's own or comes from
            ``setup``.
        setup: source text that the tests need before; trusted, and not seen by the program.
    """

    program: str
    tests: str
    names: tuple[str, ...]
    setup: str = ""


@dataclass(frozen=True)
class Verdict:
    """What came of a trial.

    Args:
        outcome: ``passed``; ``failed``: an assertion did not hold; ``error``: an exception, or the program ended
            before its tests did; ``timeout``: the wall clock; ``killed``: another limit.
        reason: one line for people; empty when it passed.
        seconds: wall-clock time.
        contained: what the system granted: ``network`` (none), ``processes`` (a process tree of its own, killed as a
            whole), ``files`` (read-only but for the empty temporary folder) and ``user`` (not root). Empty when
            nothing was run.
    """

    outcome: Outcome
    reason: str
    seconds: float
    contained: dict[str, bool] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all tests ran and held."""
        return self.outcome == "passed"

    def __str__(self) -> str:
        """The outcome and why."""
        return f"{self.outcome}: {self.reason}" if self.reason else self.outcome
