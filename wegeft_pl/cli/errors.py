"""Turns jsonargparse's nested messages into the one problem that a user can fix.

jsonargparse nests one message per level ("Parser key", "Problem with given class_path", one entry per alternative of a
union), 50 lines for one typo. Here the text is read back as that tree, the alternative that the user meant is picked,
and its leaf is said in one line. The texts are those of the jsonargparse minors that pyproject.toml pins; tests/cli
holds one test per message.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass, replace

_KEY = re.compile(r'^Parser key "(?P<key>[^"]+)"(?: element \d+)?:?[ \n]?(?P<rest>.*)$', re.DOTALL)
_CLASS = re.compile(r"^Problem with given class_path '(?P<path>[^']+)':\n(?P<rest>.*)$", re.DOTALL)
_UNION = re.compile(
    r"^Does not validate against any of the Union subtypes\n"
    r"Subtypes: \[(?P<types>.*?)\]\nErrors:\n(?P<errors>.*)\n"
    r"Given value type: [^\n]*\nGiven value: (?P<value>.*)$",
    re.DOTALL,
)
_NOT_A_PATH = re.compile(r"^- Expected a path but .*? either not accessible or invalid\n- (?P<rest>.*)$", re.DOTALL)
_BARE_CLASS = re.compile(r"^Expected a dot import path string: (?P<name>.+)$")
_EXPECTED = re.compile(r"^Expected an? (?P<type>.*?)(?:\. Got value: (?P<value>.*))?$", re.DOTALL)
_ABOUT_CLASSES = ("Import path", "Expected an instantiatable", "Expected a dot import path")
_PRIMITIVE = {f"<class '{name}'>" for name in ("int", "float", "bool")}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        keys: dotted path of the option, without ``init_args`` levels.
        text: the innermost message.
        class_path: the class whose options were being read, if any.
        expected: the types that would have been accepted, as jsonargparse writes them; empty if it is not about types.
        value: what was given, as text; None if unknown.
    """

    keys: tuple[str, ...]
    text: str
    class_path: str | None = None
    expected: str = ""
    value: str | None = None


def find_problem(message: str) -> Problem:
    """Reads a message of jsonargparse down to the problem at its bottom.

    Args:
        message: the text of the exception.

    Returns:
        The innermost problem, with the path of the option that it is about.
    """
    message = textwrap.dedent(message.strip("\n")).rstrip()
    key = _KEY.match(message)
    if key:
        inner = find_problem(key["rest"])
        return replace(inner, keys=(*_split(key["key"]), *inner.keys))
    in_class = _CLASS.match(message)
    if in_class:
        inner = find_problem(in_class["rest"])
        return replace(inner, class_path=inner.class_path or in_class["path"])
    not_a_path = _NOT_A_PATH.match(message)
    if not_a_path:
        # Every option also takes the path of a file with its value; the rest says what is wrong with the value itself.
        return find_problem(not_a_path["rest"])
    union = _UNION.match(message)
    if union:
        return _pick(union)
    bare_class = _BARE_CLASS.match(message)
    if bare_class:
        return Problem((), message, value=bare_class["name"])
    expected = _EXPECTED.match(message)
    if expected and not message.startswith("Expected an instantiatable"):
        return Problem((), message, expected=expected["type"], value=expected["value"])
    return Problem((), message)


def _split(key: str) -> tuple[str, ...]:
    return tuple(part for part in key.split(".") if part not in ("init_args", "dict_kwargs"))


def _pick(union: re.Match[str]) -> Problem:
    """Picks the alternative of a union that the user meant: the one that got furthest."""
    entries = re.split(r"^- ", textwrap.dedent(union["errors"]), flags=re.MULTILINE)[1:]
    problems = [find_problem(_dedent_rest(entry)) for entry in entries]
    if any(problem.expected in _PRIMITIVE for problem in problems):
        # float | Tensor: a word that is no number is a wrong number, not the name of a class.
        problems = [problem for problem in problems if not problem.text.startswith("Expected a dot import path")]
    for problem in problems:
        if problem.keys or problem.class_path or problem.text.startswith(_ABOUT_CLASSES):
            # jsonargparse drops the value from the text of an alternative.
            return replace(problem, value=problem.value or union["value"])
    for problem in problems:
        if problem.text.startswith("Not a valid subclass"):
            return replace(problem, value=union["value"])
    return Problem((), union[0], expected=union["types"], value=union["value"])


def _dedent_rest(entry: str) -> str:
    """Dedents an entry of a list, whose first line has lost its indentation to the dash."""
    first, _, rest = entry.partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}".strip()


def plain_types(expected: str) -> str:
    """Says types as a user says them.

    >>> plain_types("<class 'NoneType'>, <class 'int'>")
    'int or null'
    >>> plain_types("list[str], <class 'pathlib.Path'>")
    'list[str] or Path'
    """
    expected = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", expected).replace("NoneType", "null")
    expected = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", expected)
    types = dict.fromkeys(_top_level_parts(expected))
    return " or ".join(sorted(types, key=lambda name: name == "null"))


def _top_level_parts(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def allowed_words(expected: str) -> list[str]:
    """Returns the words of all ``Literal`` alternatives, in order; empty if there is none.

    >>> allowed_words("typing.Literal['type', 'all'], list[str]")
    ['type', 'all']
    """
    words: list[str] = []
    for match in re.finditer(r"Literal\[(.*?)\](?=,|\]|$)", expected):
        words += [str(word) for word in ast.literal_eval(f"[{match[1]}]")]
    return list(dict.fromkeys(words))


def shown_value(value: str) -> str:
    """Writes a given value with quotes if it is a word, without if it is a number, a list or null.

    >>> shown_value("four"), shown_value("4.5"), shown_value("None")
    ("'four'", '4.5', 'null')
    """
    nested = re.fullmatch(r"NestedArg\(key='.*?', val=(?P<value>.*)\)", value, re.DOTALL)
    if nested:
        value = str(ast.literal_eval(nested["value"]))
    if value == "None":
        return "null"
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        value = repr(value)
    return value if len(value) <= 100 else value[:100] + "..."
