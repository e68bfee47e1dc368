"""Entry point: picks the command, imports what it needs and nothing else, and ends with an exit code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence

from wegeft_pl.cli.arguments import recipe_names
from wegeft_pl.cli.close_match import did_you_mean
from wegeft_pl.cli.commands import COMMANDS, TRAINER_COMMANDS, usage
from wegeft_pl.cli.failure import INTERRUPTED, RUN_ERROR, USAGE_ERROR, UsageError, report, root_cause
from wegeft_pl.cli.names import find_recipe
from wegeft_pl.cli.source import read_source
from wegeft_pl.version import __version__

#: What a user's input or machine can cause; anything else is a bug of ours and shows its traceback.
_EXPECTED = (ValueError, OSError, ImportError, ArithmeticError)


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
        if not isinstance(cause, _EXPECTED) and not _is_lightning_refusal(cause):
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
    run: Callable[[list[str]], int] = importlib.import_module(f"wegeft_pl.cli.{command}").main
    return run(rest)


def _check_installed() -> None:
    """Refuses a bare checkout, where the callbacks are not part of the package."""
    if importlib.util.find_spec("wegeft_pl.callbacks") is None:
        raise UsageError("this checkout is not installed (no wegeft_pl.callbacks); run: pip install -e .")


def _run_recipe(command: str, arguments: list[str]) -> int:
    from wegeft_pl.cli.recipe import RecipeCLI

    RecipeCLI(command, arguments).run()
    return 0


def _is_lightning_refusal(error: Exception) -> bool:
    """Tells whether an error says that settings do not fit together or that memory ran out."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from torch import OutOfMemoryError

    return isinstance(error, MisconfigurationException | OutOfMemoryError)
