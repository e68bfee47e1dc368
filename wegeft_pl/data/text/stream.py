"""Rows of a .jsonl file that is larger than memory, each read where it stands when it is asked for."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import numpy as np

from wegeft_pl.data.rows import Row, check_row, missing, parse_line

_MARK = b"\xef\xbb\xbf"
Taken = TypeVar("Taken", covariant=True)


class Streamed(Sequence[tuple[int, Taken]]):
    """The rows of a file with their numbers, in any order and as often as wanted, as from a list of them.

    One pass over the file finds where its lines begin, 16 bytes a row, and its hash.

    Args:
        path: a .jsonl file; blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .jsonl file, or has no row; and when a row is asked for, that row is broken.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != ".jsonl":
            raise ValueError(f"{path}: data.streaming reads .jsonl files, one object a line; set it to false")
        self.path = path
        starts, lines, digest, offset = array("q"), array("q"), hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                for line_number, line in enumerate(file, 1):
                    digest.update(line)
                    if line.removeprefix(_MARK).strip():
                        starts.append(offset)
                        lines.append(line_number)
                    offset += len(line)
        except FileNotFoundError:
            raise FileNotFoundError(missing(path)) from None
        if not starts:
            raise ValueError(f"{path}: no rows; the data set is empty")
        self.sha256 = digest.hexdigest()
        starts.append(offset)
        self._starts, self._lines = np.array(starts), np.array(lines)
        self._numbers = np.arange(len(lines))

    @abstractmethod
    def take(self, value: Any, place: str) -> Taken:
        """Makes a row of what a line holds.

        Args:
            value: the line's JSON.
            place: file and line, for messages.
        """

    def pick(self, positions: Sequence[int]) -> Self:
        """Returns some of the rows, which keep their numbers.

        Args:
            positions: among these rows.
        """
        picked = object.__new__(type(self))
        picked.__dict__.update(self.__dict__)
        picked._numbers = self._numbers[np.asarray(positions, dtype=np.int64)]
        return picked

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, position: int) -> tuple[int, Taken]: ...
    @overload
    def __getitem__(self, position: slice) -> Self: ...
    def __getitem__(self, position: int | slice) -> tuple[int, Taken] | Self:
        """Reads one row with its number, or makes a part of these rows.

        Raises:
            ValueError: the row is broken; names file and line.
        """
        if isinstance(position, slice):
            return self.pick(range(*position.indices(len(self))))
        number = int(self._numbers[position])
        place = f"{self.path}:{self._lines[number]}"
        # pread leaves no place in the file behind that processes would share.
        handle = os.open(self.path, os.O_RDONLY)
        try:
            data = os.pread(handle, int(self._starts[number + 1] - self._starts[number]), int(self._starts[number]))
        finally:
            os.close(handle)
        return number, self.take(parse_line(data.removeprefix(_MARK), place), place)


class StreamedRows(Streamed[Row]):
    """Rows of columns, as :func:`read_rows` reads them.

    Args:
        path: a .jsonl file; blank lines are skipped.
        columns: see :func:`read_rows`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .jsonl file, or has no row; and when a row is asked for, that row is broken.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(path)
        self.columns = columns

    def take(self, value: Any, place: str) -> Row:
        """Checks a row; see :func:`check_row`."""
        return check_row(value, self.columns, place)
