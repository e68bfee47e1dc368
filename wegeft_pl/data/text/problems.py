"""A programming task with its tests, and the files that such tasks stand in."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wegeft_pl.data.rows import parse_line, read_values
from wegeft_pl.data.sources import find_path
from wegeft_pl.metrics.code_extraction import complete_function, cut_at, fenced_code
from wegeft_pl.sandbox import Trial


@dataclass(frozen=True)
class Problem:
    """A programming task.

    Args:
        id: its name in the data set.
        prompt: what a base model continues.
        solution: the gold continuation.
        instruction: what a chat model is asked.
        beginning: the source text that an answer completes; empty where the answer is the whole program.
        name: the function that is asked for.
        tests: source text that runs to its end if the program is right.
        names: what the tests take from the program.
        setup: source text that the tests need before.
        stop: strings at which a whole program is cut.
    """

    id: str
    prompt: str
    solution: str
    instruction: str
    beginning: str
    name: str
    tests: str
    names: tuple[str, ...]
    setup: str = ""
    stop: tuple[str, ...] = ()

    def program(self, output: str) -> str:
        """Makes the program of what a model has written: its code block, or the text itself up to where it ends."""
        if self.beginning:
            return complete_function(self.beginning, output, self.name)
        block = fenced_code(output, self.name)
        return cut_at(output, self.stop) if block is None else block

    def trial(self, program: str) -> Trial:
        """Puts a program and this task's tests together."""
        return Trial(program, self.tests, self.names, self.setup)


def read_problem_rows(path: str) -> tuple[Path, list[tuple[Any, str]]]:
    """Reads the rows of a benchmark.

    Args:
        path: a .jsonl, .jsonl.gz or .json file, or a folder that holds one of them.

    Returns:
        The file, and its rows, each with its place for messages.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the folder holds none or several, or the file cannot be read.
    """
    file = find_path(path, "data.benchmark_path")
    if file.is_dir():
        found = sorted(item for item in file.iterdir() if item.name.endswith((".jsonl", ".jsonl.gz", ".json")))
        if len(found) != 1:
            names = ", ".join(item.name for item in found) or "none"
            raise ValueError(f"data.benchmark_path: {file} must hold one .jsonl, .jsonl.gz or .json file, has {names}")
        file = found[0]
    if file.suffix != ".gz":
        return file, read_values(file)
    try:
        lines = gzip.decompress(file.read_bytes()).split(b"\n")
    except (OSError, EOFError) as error:
        raise ValueError(f"{file}: not a whole gzip file ({error})") from error
    places = ((line, f"{file}:{number}") for number, line in enumerate(lines, 1))
    return file, [(parse_line(line, place), place) for line, place in places if line.strip()]


def text_of(row: object, column: str, place: str) -> str:
    """Returns a row's text in a column, with plain line ends.

    Raises:
        ValueError: the row is no object, or has no string there.
    """
    if isinstance(row, Mapping) and column not in row:
        there = ", ".join(map(str, row)) or "none"
        raise ValueError(f"{place}: no column {column!r}, there are: {there}; is it the file of data.benchmark?")
    if not isinstance(row, Mapping) or not isinstance(row.get(column), str):
        got = f"got {row.get(column)!r:.40}" if isinstance(row, Mapping) else f"the row is {row!r:.40}"
        raise ValueError(f"{place}: column {column!r} must hold a string, {got}")
    return row[column].replace("\r\n", "\n")
