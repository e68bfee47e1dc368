"""Says one problem of a recipe or of the command line in one line, with the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from wegeft_pl.cli.close_match import did_you_mean
from wegeft_pl.cli.errors import Problem, allowed_words, plain_types, shown_value
from wegeft_pl.cli.known import classes_like, options_of, options_of_class

#: The sections of a recipe.
SECTIONS = ("seed_everything", "model", "data", "adapter", "optimizer", "lr_scheduler", "trainer")

#: Arguments of a task that are sections of their own in a recipe, so that they are not options of `model`.
OWN_SECTIONS = {"optimizer", "lr_scheduler"}

#: Init arguments that are not options, by section.
HIDDEN = {"model": OWN_SECTIONS, "optimizer": {"params"}}


def say(problem: Problem, parser: ArgumentParser) -> str:
    """Writes a problem as one line.

    Args:
        problem: what is wrong, from :func:`wegeft_pl.cli.errors.find_problem`.
        parser: the parser of the command, which knows what would have been right.

    Returns:
        The line, without ``wegeft_pl:`` and without the place.
    """
    name = ".".join(problem.keys)
    text, value = problem.text, problem.value
    if match := re.match(r"Group '(.+)' does not accept option '(.+)'", text):
        return no_option([*problem.keys, *match[1].split("."), match[2]], parser, problem.class_path)
    if match := re.match(r"Option '(.+)' is not accepted", text):
        return no_option([*problem.keys, *match[1].split(".")], parser, problem.class_path)
    if match := re.match(r"unrecognized arguments: (\S+)", text):
        return _unrecognized(match[1], problem, parser)
    if match := re.match(r"the following arguments are required: (.+)", text):
        return _missing(match[1].split(", "), problem)
    if match := re.match(r"argument (\S+): expected (.+)", text):
        return f"option {match[1].split('/')[-1]} needs a value"
    if match := re.match(r"Expected a dot import path string: (.+)", text):
        return _no_class(name, match[1], problem.keys, parser)
    if match := re.match(r"--(\S+)\.help: Expected a dot import path string: (.+)", text):
        return _no_class(match[1], match[2], match[1].split("."), parser)
    if match := re.match(r"Import path (?:(\S+) )?does not .+ (\w+)$", text):
        return f"{name}: expected a subclass of {match[2]}, got {(match[1] or value)!r}"
    if match := re.match(r"Expected an instantiatable class, but (?:(\S+) )?is (abstract|a protocol)", text):
        return f"{name}: class {(match[1] or value)!r} is {match[2]}; name a class derived from it"
    if match := re.match(r"Not a valid subclass of (\w+)", text):
        return f"{name}: expected the class path of a {match[1]}" + (f", got {shown_value(value)}" if value else "")
    if problem.class_path and re.match(r"module '.+' has no attribute|No module named", text):
        return _not_importable(name, problem, parser)
    if problem.expected:
        return _wrong_value(name, problem)
    first = text.splitlines()[0] if text else "wrong value"
    return f"{name}: {first}" if name else first


def no_option(keys: Sequence[str], parser: ArgumentParser, class_path: str | None = None) -> str:
    """Says that an option does not exist, and which one is close.

    Args:
        keys: dotted path of the option; the last one is wrong.
        parser: the parser of the command.
        class_path: the class that should have had the option, if the path leads into one.
    """
    written, last = ".".join(keys), keys[-1]
    if len(keys) > 1 and keys[0] == "model" and keys[1] in OWN_SECTIONS:
        return f"no option {written!r}; {keys[1]} is a section of its own beside model"
    if class_path is not None:
        known = options_of_class(parser, class_path, HIDDEN.get(keys[0], set()))
        hint = f"; {class_path.rsplit('.', 1)[-1]} has {_listed(known) or 'no options'}"
        return f"no option {written!r}{did_you_mean(last, known) or hint}"
    known = options_of(parser, keys[:-1])
    return f"no option {written!r}{did_you_mean(last, known)}"


def no_section(name: str, parser: ArgumentParser) -> str:
    """Says that a recipe has no such section."""
    if name in options_of(parser):
        return f"no section {name!r} in a recipe; it is an option of the command line: --{name}"
    return f"no section {name!r}{did_you_mean(name, SECTIONS) or '; a recipe has ' + ', '.join(SECTIONS)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else ", ".join(names[:12]) + ", ..."


def _unrecognized(argument: str, problem: Problem, parser: ArgumentParser) -> str:
    if not argument.startswith("-"):
        hint = "; recipes are given as --config NAME" if argument.endswith((".yaml", ".yml")) else ""
        return f"unexpected argument {argument!r}{hint}"
    keys = [*problem.keys, *argument.lstrip("-").split("=")[0].split(".")]
    if len(keys) == 1:
        hint = did_you_mean(keys[0], options_of(parser)) or f"; `{parser.prog} --help` lists the options"
        return f"no option {argument.split('=')[0]!r}{hint}"
    if keys[0] not in options_of(parser):
        return f"no option '{'.'.join(keys)}'{did_you_mean(keys[0], options_of(parser))}"
    return no_option(keys, parser, problem.class_path)


def _missing(names: list[str], problem: Problem) -> str:
    if problem.class_path is None:
        which = " and no ".join(f"{name!r} section" for name in sorted(names, key=_section_order))
        return f"no {which}; name a recipe with --config NAME (`wegeft_pl configs ls` lists the shipped ones)"
    owner = problem.class_path.rsplit(".", 1)[-1]
    option = ".".join([*problem.keys, names[0]])
    return f"{'.'.join(problem.keys)}: {owner} needs {names[0]!r}; set it in the recipe or with --{option} VALUE"


def _section_order(name: str) -> int:
    return SECTIONS.index(name) if name in SECTIONS else len(SECTIONS)


def _not_importable(name: str, problem: Problem, parser: ArgumentParser) -> str:
    assert problem.class_path is not None
    missing = re.match(r"No module named '(.+)'", problem.text)
    if missing and not f"{problem.class_path}.".startswith(f"{missing[1]}."):
        return f"{name}: class {problem.class_path!r} cannot be imported: no module {missing[1]!r}; is it installed?"
    return _no_class(name, problem.class_path, problem.keys, parser)


def _no_class(name: str, written: str, keys: Sequence[str], parser: ArgumentParser) -> str:
    return f"{name}: no class {written!r}{did_you_mean(written, classes_like(parser, keys, written))}"


def _wrong_value(name: str, problem: Problem) -> str:
    given = "" if problem.value is None else shown_value(problem.value)
    words = allowed_words(problem.expected)
    if words and problem.value is not None:
        return f"{name}: {given} is not one of {', '.join(words)}{did_you_mean(given.strip(chr(39)), words)}"
    return f"{name}: expected {plain_types(problem.expected)}" + (f", got {given}" if given else "")
