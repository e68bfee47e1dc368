"""HumanEval: functions to complete from their signature and docstring."""

from __future__ import annotations

from typing import Any

from wegeft_pl.data.text.problems import Problem, text_of
from wegeft_pl.metrics.code_extraction import preamble

#: Id, configuration and splits on the hub.
HUB = ("openai/openai_humaneval", None, ("test",))


def humaneval_problem(row: Any, place: str) -> Problem:
    """Takes a row of HumanEval: ``task_id``, ``prompt``, ``entry_point``, ``canonical_solution``, ``test``.

    A base model continues the prompt as it stands. The tests call the function as ``candidate``; helpers that the
    prompt defines before the function are the tests' own copies.

    Raises:
        ValueError: a column is missing or no string.

    Source: Chen et al., Evaluating large language models trained on code (2021).
    """
    prompt, name = text_of(row, "prompt", place), text_of(row, "entry_point", place)
    return Problem(
        id=text_of(row, "task_id", place),
        prompt=prompt,
        solution=text_of(row, "canonical_solution", place),
        instruction=f"Complete the following Python function.\n\n```python\n{prompt.rstrip()}\n```",
        beginning=prompt,
        name=name,
        tests=f"{text_of(row, 'test', place)}\n\ncheck({name})\n",
        names=(name,),
        setup=preamble(prompt, name),
    )


def humaneval_problems(rows: list[tuple[Any, str]], num_shots: int) -> list[Problem]:
    """Takes all rows; there are no examples to show.

    Raises:
        ValueError: a row is faulty.
    """
    return [humaneval_problem(row, place) for row, place in rows]
