"""The parser of the commands that take no recipe: argparse, with errors in one line like everybody else's."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from wegeft_pl.cli.close_match import did_you_mean
from wegeft_pl.cli.failure import UsageError


class LightParser(argparse.ArgumentParser):
    """An argparse parser that raises :class:`UsageError` and suggests the option that was meant.

    Args:
        prog: the command as the user writes it.
        description: what it does.
    """

    def __init__(self, prog: str, description: str | None = None, **others: Any) -> None:
        # An abbreviated option would change its meaning when a new option is added.
        super().__init__(prog=prog, description=description, allow_abbrev=False, **others)

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Refuses unknown options first: argparse would rather complain that the right ones are missing.

        Raises:
            UsageError: the arguments are wrong.
        """
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:
            for argument in given:
                if argument == "--":
                    break
                self._check_option(argument.split("=", 1)[0])
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Says argparse's message as one line with the way out.

        Raises:
            UsageError: always.
        """
        if match := re.match(r"argument (\S+): invalid choice: (.+) \(choose from (.+)\)", message):
            allowed = re.sub(r"['\"]", "", match[3]).split(", ")
            close = did_you_mean(match[2].strip("'\""), allowed)
            raise UsageError(f"{match[1]}: {match[2]} is not one of {', '.join(allowed)}{close}")
        if match := re.match(r"argument (\S+): expected one argument", message):
            raise UsageError(f"option {match[1]} needs a value")
        if match := re.match(r"unrecognized arguments: (.+)", message):
            raise UsageError(f"unexpected argument {match[1].split(' ')[0]!r}; see `{self.prog} --help`")
        raise UsageError(f"{message}; see `{self.prog} --help`")

    def _check_option(self, name: str) -> None:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        if name.startswith("--") and name not in known:
            close = did_you_mean(name, known)
            raise UsageError(f"no option {name!r}{close or f'; `{self.prog} --help` lists the options'}")
