"""Reads comma- and tab-separated text into rows; every fault is named with its file and line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Header = bool | Literal["auto"]

_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


class TableRow(dict[str, object]):
    """The wanted columns of one row of a table, and where it stands.

    Args:
        values: column name to value.
        place: file and line (``train.tsv:12``), or file and row; used in error messages.
    """

    def __init__(self, values: dict[str, object], place: str) -> None:
        super().__init__(values)
        self.place = place


@dataclass(frozen=True)
class Dialect:
    """How a separated file is to be read.

    Args:
        delimiter: one character.
        quoted: whether a field may stand in double quotes; where False a quote is a character like any other.
        has_header: whether the first line names the columns; ``"auto"`` decides by it, and asks where it cannot.
    """

    delimiter: str
    quoted: bool
    has_header: Header = "auto"


def read_delimited(
    text: str, name: str, columns: Sequence[str], label: str | None, dialect: Dialect
) -> tuple[list[TableRow], bool]:
    """Reads the wanted columns of a separated file.

    Columns are named by the header, or by number from 0. With ``has_header="auto"`` a first line that holds all the
    wanted names is a header; names that are all numbers mean that there is none, and the first line is data.

    Args:
        text: the file's content; blank lines are skipped.
        name: what messages call the file.
        columns: the columns that each row must have.
        label: the one of them that holds labels; by it a header that was taken for data is found out.
        dialect: how to read.

    Returns:
        The rows in file order, all values strings, and whether the file has a header.

    Raises:
        ValueError: a column is missing or there twice, a row has more or fewer columns than the first, quotes are
            broken, the delimiter is another one, or it cannot be told whether the first line is a header.
    """
    records = _records(text, name, dialect)
    first = next(records, None)
    if first is None:
        raise ValueError(f"{name}: no rows; the data set is empty")
    place, cells = first
    header = _has_header(place, cells, columns, dialect)
    positions = _positions(place, cells, columns, header, dialect)
    rows = [] if header else [_pick(cells, positions, place)]
    for where, record in records:
        if len(record) != len(cells):
            raise ValueError(
                f"{where}: {_count(record)}, but the first row has {len(cells)}; {_advice(dialect, len(record))}"
            )
        rows.append(_pick(record, positions, where))
    if not rows:
        raise ValueError(f"{name}: no rows below the header; the data set is empty")
    if not header and dialect.has_header == "auto" and label is not None:
        _suspect_header(rows, label)
    return rows, header


def _records(text: str, name: str, dialect: Dialect) -> Iterator[tuple[str, list[str]]]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    # newline="" leaves line ends inside quotes alone and splits at nothing but \n, \r and \r\n.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=dialect.delimiter, quoting=quoting, strict=True)
    with _any_field_size():
        while True:
            place = f"{name}:{reader.line_num + 1}"
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(
                    f"{place}: broken quoting in the row that begins here ({error}); double a quote inside quotes, or "
                    "set data.quoted to false if quotes mean nothing in this file"
                ) from None
            if record:
                yield place, record


@contextmanager
def _any_field_size() -> Iterator[None]:
    """Lifts the csv module's limit of 131,072 characters a field, which long documents exceed."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _has_header(place: str, cells: list[str], columns: Sequence[str], dialect: Dialect) -> bool:
    by_name, by_number = all(column in cells for column in columns), all(column.isdecimal() for column in columns)
    if isinstance(dialect.has_header, bool):
        if not dialect.has_header and not by_number:
            raise ValueError(
                f"{place}: with data.has_header false columns are numbers from 0, got {', '.join(columns)}; this file "
                f"has 0 to {len(cells) - 1}"
            )
        return dialect.has_header
    if by_name and by_number:
        raise ValueError(
            f"{place}: the first line is {_shown(cells)}, which could be a header or data; set data.has_header"
        )
    return not by_number


def _positions(place: str, cells: list[str], columns: Sequence[str], header: bool, dialect: Dialect) -> dict[str, int]:
    positions = {}
    for column in columns:
        if header and cells.count(column) > 1:
            raise ValueError(f"{place}: the column {column!r} is there {cells.count(column)} times; rename the others")
        if header and column in cells:
            positions[column] = cells.index(column)
        elif column.isdecimal() and int(column) < len(cells):
            positions[column] = int(column)
        else:
            raise ValueError(f"{place}: no column {column!r}{_hint(column, cells, header, dialect)}")
    return positions


def _hint(column: str, cells: list[str], header: bool, dialect: Dialect) -> str:
    others = [mark for mark in _NAMES if mark != dialect.delimiter and mark in cells[0]] if len(cells) == 1 else []
    if others:
        return (
            f"; the first line has one column at data.delimiter {dialect.delimiter!r}, but {_NAMES[others[0]]} in it: "
            f"set data.delimiter to {others[0]!r}"
        )
    if not header:
        return f"; this file has columns 0 to {len(cells) - 1}"
    close = get_close_matches(column, cells, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return (
        f" in the first line: {_shown(cells)}; {meant}name one of these, or number the columns (data.text_column 0) if "
        "the file has no header"
    )


def _suspect_header(rows: list[TableRow], label: str) -> None:
    """Refuses a first row whose label looks like the name of the column: it is in no other row, and no number."""
    first = str(rows[0][label])
    if len(rows) < 2 or _is_number(first) or any(row[label] == first for row in rows[1:]):
        return
    raise ValueError(
        f"{rows[0].place}: columns are named by number, but the label {first!r} of the first row is in no other row; "
        "set data.has_header to true if the row is a header, or to false if it is data"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pick(record: list[str], positions: dict[str, int], place: str) -> TableRow:
    return TableRow({column: record[position] for column, position in positions.items()}, place)


def _count(record: list[str]) -> str:
    return f"{len(record)} column" + ("" if len(record) == 1 else "s")


def _advice(dialect: Dialect, found: int) -> str:
    if dialect.quoted:
        return f"a text that holds {dialect.delimiter!r} or a line break must stand in double quotes"
    return "a text may hold no tab or line break; set data.quoted to true if texts stand in double quotes"


def _shown(cells: list[str]) -> str:
    return ", ".join(repr(cell if len(cell) <= 24 else cell[:21] + "...") for cell in cells[:8])
