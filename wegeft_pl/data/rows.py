"""Reads rows of text from .jsonl and .json files; every fault is named with its file and line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class Row(dict[str, str]):
    """The wanted columns of one row, and where the row stands.

    Args:
        values: column name to text.
        place: file and line (``train.jsonl:12``), or file and row number for a JSON array; used in error messages.
    """

    def __init__(self, values: Mapping[str, str], place: str) -> None:
        super().__init__(values)
        self.place = place


def read_rows(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """Reads the named columns of every row of a .jsonl file or of a .json file that holds one array.

    Args:
        path: a .jsonl file (one JSON object a line; blank lines are skipped) or a .json file (an array of objects),
            UTF-8 with or without a byte-order mark.
        columns: the columns that each row must have, each a string; other columns are left out.

    Returns:
        The rows in file order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the ending is another one, the text is not UTF-8, a line or the array is not valid JSON, a row is
            not an object, lacks a column or holds something other than a string in it, or there is no row at all.
    """
    return [check_row(row, columns, place) for row, place in read_values(path)]


def read_values(path: str | Path) -> list[tuple[Any, str]]:
    """Reads every row of a file as it is, each with its place for messages; see :func:`read_rows`.

    Args:
        path: a .jsonl or .json file.

    Returns:
        The rows in file order, of any JSON type, each with where it stands.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the ending is another one, the text is not UTF-8 or not valid JSON, or there is no row at all.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".json"):
        raise ValueError(f"{path}: expected a .jsonl or .json file, got the ending {path.suffix!r}")
    text = read_text(path)
    if path.suffix == ".json":
        rows = [(row, f"{path}: row {number}") for number, row in enumerate(_array(text, path), 1)]
    else:
        rows = []
        # Split at "\n" only: str.splitlines() also splits at U+2028 and others, which JSON allows inside strings.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                place = f"{path}:{number}"
                rows.append((_parse(line, place), place))
    if not rows:
        raise ValueError(f"{path}: no rows; the data set is empty")
    return rows


def check_row(row: object, columns: Sequence[str], place: str) -> Row:
    """Checks that a row is an object with the wanted columns, all strings.

    Args:
        row: what the file (or the hub) holds.
        columns: the wanted columns.
        place: where the row stands, for the messages.

    Returns:
        The wanted columns.

    Raises:
        ValueError: the row is not an object, lacks a column, or a column's value is not a string.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: a row must be a JSON object like {{{columns[0]!r}: ...}}, got {_kind(row)}")
    for column in columns:
        if column not in row:
            close = get_close_matches(column, [str(name) for name in row], n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"{place}: no column {column!r}; {hint}this row has: {', '.join(map(str, row)) or 'none'}")
        if not isinstance(row[column], str):
            raise ValueError(f"{place}: column {column!r} must hold a string, got {_kind(row[column])}")
    return Row({column: row[column] for column in columns}, place)


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, without its byte-order mark if it has one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a byte is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(missing(path)) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8") from None


def parse_line(data: bytes, place: str) -> Any:
    """Reads the JSON of one line.

    Args:
        data: the line's bytes, UTF-8.
        place: where it stands, for the messages.

    Raises:
        ValueError: it is not UTF-8 or not valid JSON.
    """
    try:
        return _parse(data.decode("utf-8"), place)
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise ValueError(f"{place}: byte {byte:#04x} is not UTF-8; save the file as UTF-8") from None


def missing(path: Path) -> str:
    """Words the message for a file or folder that does not exist, with a close name from its folder if there is one."""
    names = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
    close = get_close_matches(path.name, names, n=1)
    if close:
        return f"no file or folder {path}; did you mean {close[0]!r}?"
    return f"no file or folder {path}" + ("" if path.parent.is_dir() else f"; its folder {path.parent} is missing too")


def sha256(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file's content, so that a run's record says which data it saw."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha256_lines(lines: Iterable[str]) -> str:
    """Returns the hexadecimal SHA-256 of lines, names of files that are not UTF-8 among them."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def sha256_rows(rows: Sequence[Row]) -> str:
    """Returns the hexadecimal SHA-256 of rows that have no file (from the hub), as JSON lines with sorted keys."""
    lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not valid JSON ({error.msg} at column {error.colno}): {text.strip():.60}") from None


def _array(text: str, path: Path) -> list[Any]:
    try:
        rows = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        way_out = "; one object a line belongs in a .jsonl file" if error.msg == "Extra data" else ""
        raise ValueError(f"{path}:{error.lineno}: not valid JSON ({error.msg}){way_out}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: a .json data set must be an array of objects, got {_kind(rows)}")
    return rows


def _kind(value: object) -> str:
    names = {type(None): "null", dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
