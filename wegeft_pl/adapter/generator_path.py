"""Generators by name: an adapter's files and recipes hold an import path and options, never a class."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from wegeft_pl.generators import Generator

#: A class or function that makes a generator from (width, rank, zero, side), rows where it asks for them, and options.
GeneratorFactory = Callable[..., Generator]

#: Parameters that the adapter fills; whatever else a generator takes by keyword is an option.
FILLED = ("width", "rank", "zero", "side", "rows")


def unwrap(
    generator: str | GeneratorFactory, options: Mapping[str, Any]
) -> tuple[str | GeneratorFactory, dict[str, Any]]:
    """Takes a ``functools.partial`` apart into what it calls and its options.

    Args:
        generator: an import path, a class, a function, or a partial of one.
        options: given beside it.

    Returns:
        An import path, a class or a function, and all options.

    Raises:
        ValueError: an option is given twice or by position, or the generator has no name to import it by.
    """
    merged = dict(options)
    if isinstance(generator, functools.partial):
        if generator.args:
            raise ValueError(f"generator: the partial of {generator.func} fills arguments by position; name them")
        for name in generator.keywords.keys() & merged.keys():
            raise ValueError(f"generator_options: {name} is also given by the partial; give it once")
        merged = generator.keywords | merged
        generator = generator.func
    if not isinstance(generator, str):
        path_of(generator)
    return generator, merged


def path_of(generator: GeneratorFactory) -> str:
    """The import path of a class or function.

    Raises:
        ValueError: it has none: a lambda, a class or function inside another, an object.
    """
    if not (inspect.isclass(generator) or inspect.isfunction(generator)) or not generator.__qualname__.isidentifier():
        raise ValueError(
            f"generator: {generator} cannot be imported by name, so it could not be saved; define it at the top level "
            "of a module"
        )
    return f"{generator.__module__}.{generator.__qualname__}"


def resolve_generator(generator: str | GeneratorFactory) -> GeneratorFactory:
    """Finds what makes a generator.

    Args:
        generator: a class, a function that returns a generator, or the import path of one; a bare name is looked up in
            ``wegeft_pl.generators``.

    Raises:
        ValueError: the module or the name does not exist, or is neither a function nor a Generator class.
    """
    found: object = generator
    if isinstance(generator, str):
        module_name, _, name = generator.rpartition(".")
        try:
            module = importlib.import_module(module_name or "wegeft_pl.generators")
        except ImportError as error:
            raise ValueError(f"generator: cannot import {module_name!r} of {generator!r} ({error})") from error
        found = vars(module).get(name)
        if found is None:
            close = get_close_matches(name, list(vars(module)), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"generator: {module.__name__} has no class {name!r}{hint}")
    if inspect.isfunction(found) or (inspect.isclass(found) and issubclass(found, Generator)):
        return found
    raise ValueError(f"generator: {generator!r} is not a subclass of wegeft_pl.generators.Generator")


def check_options(factory: GeneratorFactory, options: Mapping[str, Any]) -> None:
    """Finds out whether a generator takes these options, without making one.

    Raises:
        ValueError: an option is unknown, is a field of the adapter, or has a value that JSON cannot hold.
    """
    parameters = inspect.signature(factory).parameters.values()
    known = [item.name for item in parameters if item.name not in FILLED and item.kind is not item.VAR_KEYWORD]
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters)
    for name, value in options.items():
        if name in FILLED:
            reason = "filled from the layer" if name in ("width", "rows") else "a field of the adapter itself"
            raise ValueError(f"generator_options: {name} is {reason}; take it out of generator_options")
        if name not in known and not takes_any:
            close = get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"generator_options: {factory.__name__} has no option {name!r}{hint}; {has}")
        try:
            plain = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError):
            plain = False
        if not plain:
            raise ValueError(f"generator_options: {name}={value!r} is no plain number, string, list or mapping")


def default_zero(factory: GeneratorFactory) -> str:
    """The factor that a generator starts at zero where the user leaves it open."""
    parameter = inspect.signature(factory).parameters.get("zero")
    stated = None if parameter is None else parameter.default
    return stated if isinstance(stated, str) else "phi"


def needs_rows(factory: GeneratorFactory) -> bool:
    """Whether a generator is built for a fixed number of rows: it has a parameter of that name."""
    return "rows" in inspect.signature(factory).parameters
