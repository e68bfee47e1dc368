"""Rows of instruction, output and answer: the LLM-Adapters format, and other data sets' own formats turned into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wegeft_pl.data.rows import Row, check_row, read_values
from wegeft_pl.metrics import gsm8k_strict, last_boxed

#: What every row of a mixture has: ``task`` says which data set it is from.
COLUMNS = ("instruction", "output", "answer", "task")


def instruction_row(instruction: str, output: str, answer: str, task: str, place: str) -> Row:
    """Makes a row of a mixture.

    Args:
        instruction: the question, with its choices.
        output: a whole answer, to train on.
        answer: the short gold answer, which is scored.
        task: which data set the row is from.
        place: file and row, for messages.
    """
    return Row(dict(zip(COLUMNS, (instruction, output, answer, task), strict=True)), place)


def from_llm_adapters(row: Any, task: str, place: str) -> Row:
    """Takes a row of the LLM-Adapters files: ``instruction``, ``output``, ``answer`` and an empty ``input``.

    Raises:
        ValueError: a column is missing or no string, or ``input`` is not empty.
    """
    found = check_row(row, COLUMNS[:3], place)
    if row.get("input"):
        raise ValueError(
            f"{place}: column 'input' must be empty, got {row['input']!r:.40}; put it into the instruction"
        )
    return instruction_row(found["instruction"], found["output"], found["answer"], task, place)


def from_gsm8k(row: Any, task: str, place: str) -> Row:
    """Takes a row of GSM8K: ``question``, and ``answer`` that ends in ``#### number``.

    Raises:
        ValueError: a column is missing or no string, or the answer has no ``#### number``.
    """
    found = check_row(row, ("question", "answer"), place)
    answer = gsm8k_strict(found["answer"])
    if answer is None:
        raise ValueError(f"{place}: the gold answer must end in '#### number', got {found['answer'][-40:]!r}")
    return instruction_row(found["question"], found["answer"], answer, task, place)


def from_math(row: Any, task: str, place: str) -> Row:
    r"""Takes a row of MATH: ``problem``, and ``solution`` with a ``\boxed{...}``, or that and ``answer``.

    Raises:
        ValueError: a column is missing or no string, or there is neither answer nor box.
    """
    names = (
        ("problem", "solution", "answer") if isinstance(row, Mapping) and "answer" in row else ("problem", "solution")
    )
    found = check_row(row, names, place)
    answer = found.get("answer") or last_boxed(found["solution"])
    if answer is None:
        raise ValueError(f"{place}: the solution must hold a closed \\boxed{{...}}, got {found['solution'][-40:]!r}")
    return instruction_row(found["problem"], found["solution"], answer, task, place)


def from_mawps(row: Any, task: str, place: str) -> Row:
    """Takes a row of MAWPS's own files: ``original_text``, ``equation`` and ``ans``, a number or its text.

    Raises:
        ValueError: a column is missing, or holds something else.
    """
    if isinstance(row, Mapping) and isinstance(row.get("ans"), int | float):
        row = {**row, "ans": str(row["ans"])}
    found = check_row(row, ("original_text", "equation", "ans"), place)
    output = f"{found['equation']}. The answer is {found['ans']}."
    return instruction_row(found["original_text"], output, found["ans"], task, place)


def from_metamath(row: Any, task: str, place: str) -> Row:
    """Takes a row of MetaMathQA: ``query``, and ``response`` that ends in ``The answer is: ...``.

    Raises:
        ValueError: a column is missing or no string, or the response names no answer.
    """
    found = check_row(row, ("query", "response"), place)
    _, marker, answer = found["response"].rpartition("The answer is:")
    if not marker or not answer.strip():
        raise ValueError(f"{place}: the response must end in 'The answer is: ...', got {found['response'][-40:]!r}")
    return instruction_row(found["query"], found["response"], answer.strip(), task, place)


Taker = Callable[[Any, str, str], Row]
#: The column that tells a format from the others, how its rows are taken, and the task that only it can be.
FORMATS: dict[str, tuple[Taker, str | None]] = {
    "instruction": (from_llm_adapters, None),
    "problem": (from_math, "MATH"),
    "original_text": (from_mawps, "mawps"),
    "question": (from_gsm8k, "gsm8k"),
    "query": (from_metamath, None),
}


def read_instructions(path: Path, task: str) -> list[Row]:
    """Reads a .json or .jsonl file in any of the known formats.

    Args:
        path: the file.
        task: which data set its rows are from.

    Returns:
        The rows in file order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or a row is faulty; its place is named.
    """
    return [_taker(row)(row, task, place) for row, place in read_values(path)]


def task_of_format(path: Path) -> str | None:
    """Tells which task a file's format alone gives away; None for the LLM-Adapters format, which all share.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read.
    """
    first, _ = read_values(path)[0]
    return next((task for column, (_, task) in FORMATS.items() if isinstance(first, Mapping) and column in first), None)


def _taker(row: Any) -> Taker:
    if isinstance(row, Mapping):
        for column, (taker, _) in FORMATS.items():
            if column in row:
                return taker
    return from_llm_adapters  # whose message names the columns
