"""How the command line ends when something is wrong: short messages, exit codes, the traceback on request."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

#: Set this environment variable to 1 to see the traceback behind a message.
TRACEBACK_VARIABLE = "WEGEFT_PL_TRACEBACK"

USAGE_ERROR = 2
RUN_ERROR = 1
INTERRUPTED = 130

#: What a user's input or machine can cause.
_EXPECTED = (ValueError, OSError, ImportError, ArithmeticError)

_MAX_LINES = 2
#: Libraries list everything they know in one line; a terminal shows about this much of it at a glance.
_MAX_CHARACTERS = 500


class UsageError(Exception):
    """The command line or a recipe is wrong; the text is what the user reads.

    Not a ValueError: jsonargparse catches those while it tries the alternatives of a type.
    """


def root_cause(error: Exception) -> Exception:
    """Finds the exception that our code or a library raised under what jsonargparse made of it.

    jsonargparse catches what a constructor raises and says that the value fits no alternative of its type.

    Args:
        error: the exception that arrived.

    Returns:
        The outermost exception of its chain of causes that was not raised inside jsonargparse.
    """
    cause: BaseException | None = error
    while isinstance(cause, Exception):
        frames = traceback.extract_tb(cause.__traceback__)
        if not frames or "jsonargparse" not in Path(frames[-1].filename).parts:
            return cause
        cause = cause.__cause__
    return error


def is_expected(error: Exception) -> bool:
    """Tells whether a user's input or machine can cause an error; anything else is a bug and shows its traceback."""
    if isinstance(error, _EXPECTED):
        return True
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    return isinstance(error, MisconfigurationException)


def wants_traceback() -> bool:
    """Whether the traceback behind a message was asked for."""
    return os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")


def report(error: BaseException, code: int, max_lines: int = _MAX_LINES) -> int:
    """Prints an error as one or two lines of limited length on stderr, after its traceback when that was asked for.

    Args:
        error: what went wrong; its text should state the constraint, the value and the way out.
        code: the exit code to return.
        max_lines: how many lines are shown.

    Returns:
        ``code``.
    """
    if wants_traceback():
        traceback.print_exception(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    kept = [_cut(line) for line in lines[:max_lines]]
    if kept != lines:
        kept.append(f"(shortened; {TRACEBACK_VARIABLE}=1 shows all of it)")
    print("wegeft_pl: " + "\n  ".join(kept), file=sys.stderr)
    return code


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 3] + "..."
