"""Entry point: picks the command, imports what it needs and nothing else, and ends with an exit code."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from wegeft_pl.cli.arguments import recipe_names
from wegeft_pl.cli.close_match import did_you_mean
from wegeft_pl.cli.commands import COMMANDS, TRAINER_COMMANDS, module_of, usage
from wegeft_pl.cli.failure import (
    INTERRUPTED,
    RUN_ERROR,
    USAGE_ERROR,
    UsageError,
    is_expected,
    report,
    root_cause,
    wants_traceback,
)
from wegeft_pl.cli.names import find_recipe
from wegeft_pl.cli.source import read_source
from wegeft_pl.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments without the program's name; None for those of the process.

    Returns:
        The exit code: 0, 1 for a run that failed, 2 for a wrong command line or recipe, 130 for an interrupted run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UsageError as error:
        return report(error, USAGE_ERROR)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        # Lightning turns Ctrl-C into exit code 1 once it has shut down.
        if isinstance(end.__context__, KeyboardInterrupt):
            return INTERRUPTED
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:  # `wegeft_pl configs ls | head`
        return 0
    except Exception as error:
        cause = root_cause(error)
        if not is_expected(cause):
            raise
        return report(cause, RUN_ERROR)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if arguments else USAGE_ERROR
    if arguments[0] == "--version":
        print(f"wegeft_pl {__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}"
        raise UsageError(f"no command {command!r}{hint}")
    if command != "configs":
        _check_installed()
    if command in TRAINER_COMMANDS or command == "plan":
        for name in recipe_names(rest):
            read_source(find_recipe(name))  # a wrong name should not wait for torch
    if command in TRAINER_COMMANDS:
        return _run_recipe(command, rest)
    run: Callable[[list[str]], int] = importlib.import_module(f"wegeft_pl.cli.{module_of(command)}").main
    return run(rest)


def _check_installed() -> None:
    """Refuses a bare checkout, where the callbacks are not part of the package."""
    if importlib.util.find_spec("wegeft_pl.callbacks") is None:
        raise UsageError("this checkout is not installed (no wegeft_pl.callbacks); run: pip install -e .")


def _run_recipe(command: str, arguments: list[str]) -> int:
    if not wants_traceback():
        # Before torch is imported: where a process is gone, its C++ side warns on every other one.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from wegeft_pl.cli.first_cause import FirstCauseError, SaidElsewhereError
    from wegeft_pl.cli.out_of_memory import MemoryRanOutError
    from wegeft_pl.cli.recipe import RecipeCLI

    try:
        RecipeCLI(command, arguments).run()
    except MemoryRanOutError as error:
        return report(error, RUN_ERROR, max_lines=4)
    except FirstCauseError as error:
        return report(error, RUN_ERROR)
    except SaidElsewhereError as error:
        if wants_traceback():
            traceback.print_exception(error)
        return RUN_ERROR
    return 0
