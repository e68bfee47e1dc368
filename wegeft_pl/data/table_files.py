"""Reads tables of texts and labels: .csv, .tsv, .jsonl, .json (each also as .gz) and .parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from wegeft_pl.data.delimited import Dialect, Header, TableRow, read_delimited
from wegeft_pl.data.rows import missing

#: The endings of the files that are read; all but the last one may be followed by .gz.
ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class TableFormat:
    """What a user says of separated files; other kinds of files need none of it.

    Args:
        has_header: whether the first line names the columns, or ``"auto"``.
        delimiter: one character; None: a comma in .csv, a tab in .tsv.
        quoted: whether fields may stand in double quotes; None: in .csv, not in .tsv.

    Raises:
        ValueError: the delimiter is not one character.
    """

    has_header: Header = "auto"
    delimiter: str | None = None
    quoted: bool | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(f"data.delimiter must be one character and no quote or line break, got {self.delimiter!r}")

    def dialect(self, ending: str) -> Dialect:
        """How a file of an ending is read."""
        comma = ending == ".csv"
        delimiter = self.delimiter or ("," if comma else "\t")
        return Dialect(delimiter, comma if self.quoted is None else self.quoted, self.has_header)


def ending_of(name: str) -> str | None:
    """The ending of a table's file name, without .gz; None where it is no table's.

    Example:
        >>> ending_of("dev.tsv.gz"), ending_of("README.md"), ending_of("train.parquet.gz")
        ('.tsv', None, None)
    """
    path = Path(name.lower())
    packed = path.suffix == ".gz"
    ending = path.with_suffix("").suffix if packed else path.suffix
    return ending if ending in (ENDINGS[:-1] if packed else ENDINGS) else None


def read_table(
    path: Path, columns: Sequence[str], label: str | None, table_format: TableFormat
) -> tuple[list[TableRow], bool]:
    """Reads the wanted columns of every row of a table.

    Args:
        path: a file with one of :data:`ENDINGS`, perhaps with .gz behind.
        columns: the columns that each row must have; in separated files also numbers from 0.
        label: the one of them that holds labels, or None.
        table_format: how separated files are read.

    Returns:
        The rows in file order, and whether columns are named in the file rather than numbered.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: a .parquet file without the package that reads it.
        ValueError: the ending is another one, the content cannot be read, a column is missing or there twice, or there
            is no row.
    """
    ending = ending_of(path.name)
    if ending is None:
        raise ValueError(
            f"{path}: expected a file that ends in {', '.join(ENDINGS)}, or one of these but .parquet + .gz"
        )
    if not path.is_file():
        raise FileNotFoundError(missing(path))
    if ending == ".parquet":
        return _parquet(path, columns), True
    text = read_packed_text(path)
    if ending in (".csv", ".tsv"):
        return read_delimited(text, str(path), columns, label, table_format.dialect(ending))
    rows = _json_lines(text, path, columns) if ending == ".jsonl" else _json_array(text, path, columns)
    if not rows:
        raise ValueError(f"{path}: no rows; the data set is empty")
    return rows, True


def read_packed_text(path: Path) -> str:
    """Reads a UTF-8 file, unpacked where it ends in .gz, without its byte-order mark if it has one.

    Raises:
        ValueError: the file is not packed as its name says or cut off, or a byte is not UTF-8.
    """
    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: cannot unpack this .gz file ({error}); make or download it again") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8") from None


def _json_lines(text: str, path: Path, columns: Sequence[str]) -> list[TableRow]:
    rows = []
    # Split at "\n" only: str.splitlines() also splits at U+2028 and others, which JSON allows inside strings.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}:{number}"
            rows.append(pick(_parse(line, place), columns, place))
    return rows


def _json_array(text: str, path: Path, columns: Sequence[str]) -> list[TableRow]:
    content = _parse(text, str(path)) if text.strip() else []
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: a .json table must be an array of objects; one object a line belongs in a .jsonl file"
        )
    return [pick(row, columns, f"{path}: row {number}") for number, row in enumerate(content, 1)]


def _parse(text: str, place: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{place}: the column {name!r} is there {names.count(name)} times in one row")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        way_out = "; one object a line belongs in a .jsonl file" if error.msg == "Extra data" else ""
        raise ValueError(f"{place}: not valid JSON ({error.msg} at line {error.lineno}){way_out}") from None


def pick(row: object, columns: Sequence[str], place: str) -> TableRow:
    """Takes the wanted columns of a row that is an object.

    Raises:
        ValueError: it is no object, or lacks a column.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: a row must be an object like {{{columns[0]!r}: ...}}, got {type(row).__name__}")
    for column in columns:
        if column not in row:
            raise ValueError(f"{place}: {_no_column(column, list(row))}")
    return TableRow({column: row[column] for column in columns}, place)


def _no_column(column: str, names: Sequence[str]) -> str:
    close = get_close_matches(column, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"no column {column!r}; {meant}there are: {', '.join(names) or 'none'}"


def _parquet(path: Path, columns: Sequence[str]) -> list[TableRow]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path}: .parquet files need: pip install wegeft-pl[hub]") from None
    try:
        names = parquet.read_schema(path).names
        for column in columns:
            if names.count(column) > 1:
                raise ValueError(
                    f"{path}: the column {column!r} is there {names.count(column)} times; rename the others"
                )
            if column not in names:
                raise ValueError(f"{path}: {_no_column(column, names)}")
        rows = parquet.read_table(path, columns=list(columns)).to_pylist()
    except (ArrowException, OSError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path}: not a whole .parquet file ({reason}); make or download it again") from None
    if not rows:
        raise ValueError(f"{path}: no rows; the data set is empty")
    return [TableRow(row, f"{path}: row {number}") for number, row in enumerate(rows, 1)]
