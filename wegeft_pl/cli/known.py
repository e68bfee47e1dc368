"""What the parser would have accepted at some place: the candidates for "did you mean"."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse._typehints import ActionTypeHint, get_all_subclass_paths
from jsonargparse._util import import_object

_HIDDEN = {"help", "config", "print_config"}


def options_of(parser: ArgumentParser, keys: Sequence[str] = ()) -> list[str]:
    """Returns the options that a parser has directly below a dotted path.

    Args:
        parser: the parser of a command or of a class.
        keys: the path; empty for the top.

    Returns:
        Names such as ``max_steps``, without the path.
    """
    prefix = "".join(f"{key}." for key in keys)
    names = [
        action.dest.removeprefix(prefix).split(".")[0] for action in parser._actions if action.dest.startswith(prefix)
    ]
    return [name for name in dict.fromkeys(names) if name and name not in _HIDDEN]


def options_of_class(parser: ArgumentParser, class_path: str, skip: set[str]) -> list[str]:
    """Returns the init arguments that a class accepts in a recipe.

    Args:
        parser: the parser of the command.
        class_path: the class.
        skip: arguments that the command hides.
    """
    kind: Any = import_object(class_path)
    inner = type(parser)(exit_on_error=False)
    hidden: set[str | int] = set(skip)
    if inspect.isclass(kind):
        inner.add_class_arguments(kind, fail_untyped=False, skip=hidden)
    else:
        inner.add_function_arguments(kind, fail_untyped=False, skip=hidden)
    return [name for name in options_of(inner) if name not in skip]


def classes_like(parser: ArgumentParser, keys: Sequence[str], written: str) -> list[str]:
    """Returns the class paths (or bare names, if the user wrote one) that fit an option.

    Args:
        parser: the parser of the command.
        keys: dotted path of the option whose value is the class.
        written: what the user wrote, ``module.Class`` or ``Class``.
    """
    paths: list[str] = []
    for length in range(len(keys), 0, -1):
        dest = ".".join(keys[:length])
        action = next((a for a in parser._actions if a.dest == dest and isinstance(a, ActionTypeHint)), None)
        if action is not None:
            paths = get_all_subclass_paths(action._typehint)
            break
    if "." not in written:
        return [path.rsplit(".", 1)[-1] for path in paths]
    module_name = written.rsplit(".", 1)[0]
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return paths
    here = [f"{module_name}.{name}" for name, value in vars(module).items() if inspect.isclass(value)]
    return [*here, *paths]
