"""MBPP: programs to write from one sentence and the assertions that they must pass."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from wegeft_pl.data.text.problems import Problem, text_of
from wegeft_pl.metrics.code_extraction import import_lines, top_level_names, used_names

#: Id, configuration and splits on the hub.
HUB = ("google-research-datasets/mbpp", "full", ("prompt", "test"))
#: The tasks that are shown as examples, in order, and those that are scored.
SHOTS = (2, 3, 4)
TEST_IDS = range(11, 511)

_TASK = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}\n"
    "[BEGIN]\n"
)
_END = "\n[DONE]"


def mbpp_problems(rows: Sequence[tuple[Any, str]], num_shots: int) -> list[Problem]:
    """Takes the file of all 974 tasks and returns the 500 of the test split, each behind worked examples.

    Args:
        rows: the rows, each with its place.
        num_shots: how many of the tasks 2, 3 and 4 stand solved before the task, as in the paper, whose prompt this is.

    Returns:
        The tasks numbered 11 to 510.

    Raises:
        ValueError: a row is faulty, an example is not there, or no task to score is.

    Source: Austin et al., Program synthesis with large language models (2021), section 3.
    """
    by_id = {_number(row, place): (row, place) for row, place in rows}
    missing = [number for number in SHOTS[:num_shots] if number not in by_id]
    if missing:
        raise ValueError(f"MBPP's examples are its tasks {SHOTS}, and {missing} are not there; set data.num_shots to 0")
    shots = "".join(_task(*by_id[number]) + _code(*by_id[number]) + f"{_END}\n\n" for number in SHOTS[:num_shots])
    chosen = [by_id[number] for number in sorted(by_id) if number in TEST_IDS]
    if not chosen:
        raise ValueError(f"MBPP's test split is its tasks 11 to 510, and none is there; the file has {len(rows)} rows")
    return [mbpp_problem(row, place, shots) for row, place in chosen]


def mbpp_problem(row: Any, place: str, shots: str = "") -> Problem:
    """Takes a row of MBPP: ``task_id``, ``text``, ``code``, ``test_list``, ``test_setup_code``.

    Raises:
        ValueError: a column is missing or of another type, or the gold program or the tests are no Python.
    """
    code = _code(row, place)
    tests = text_of(row, "test_setup_code", place) + "\n" + "\n".join(_tests(row, place))
    try:
        names = tuple(sorted(top_level_names(code) & used_names(tests)))
        setup = import_lines(code)  # a test may use a module that only the gold program imports
    except SyntaxError as error:
        raise ValueError(f"{place}: code or tests are no Python ({error.msg}, line {error.lineno})") from error
    first = re.search(r"assert\W*(?:\w+\.)?(\w+)\(", tests)
    name = first[1] if first is not None and first[1] in names else (names or ("",))[0]
    task = "\n".join(_tests(row, place))
    return Problem(
        id=f"MBPP/{_number(row, place)}",
        prompt=shots + _task(row, place),
        solution=code + _END,
        instruction=f"{text_of(row, 'text', place)} Your code should pass these tests:\n\n```python\n{task}\n```",
        beginning="",
        name=name,
        tests=tests,
        names=names,
        setup=setup,
        stop=(_END.strip(), "[BEGIN]"),
    )


def _number(row: Any, place: str) -> int:
    number = row.get("task_id") if isinstance(row, Mapping) else None
    if not isinstance(number, int):
        raise ValueError(f"{place}: column 'task_id' must hold a number, got {number!r:.40}")
    return number


def _tests(row: Any, place: str) -> list[str]:
    tests = row.get("test_list")
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"{place}: column 'test_list' must hold an array of strings, got {tests!r:.40}")
    return tests


def _task(row: Any, place: str) -> str:
    return _TASK.format(text=text_of(row, "text", place), tests="\n".join(_tests(row, place)))


def _code(row: Any, place: str) -> str:
    return text_of(row, "code", place)
