"""Where an image is kept, and a row of a split: an image with its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class StoredImage(Protocol):
    """An encoded image: a file, or a cell of a table on the hub."""

    @property
    def name(self) -> str:
        """Where it is, for messages, pages and records."""
        ...

    def stamp(self) -> str:
        """A line that changes when the content does; raises FileNotFoundError where there is nothing."""
        ...

    def fact(self) -> str:
        """What tells its content from another's, wherever it is kept."""
        ...

    def read(self) -> bytes:
        """Reads the encoded bytes."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of its own.

    Args:
        path: the file, as the user's path and the data set's list make it up.
    """

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def stamp(self) -> str:
        """Absolute path, size in bytes and time of the last change in nanoseconds.

        Raises:
            FileNotFoundError: there is no such file.
        """
        stat = self.path.stat()
        return f"{self.path.absolute()}\t{stat.st_size}\t{stat.st_mtime_ns}"

    def fact(self) -> str:
        """Size in bytes; the time of the last change would differ in a copy."""
        return str(self.path.stat().st_size)

    def read(self) -> bytes:
        """Reads the file."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class HubImage:
    """An image in a row of a table of the ``datasets`` library.

    Args:
        table: rows whose image column is not decoded: ``{"bytes": ..., "path": ...}``.
        row: the row's number.
        column: the image column.
        source: what messages call the table.
        fingerprint: of the table.
    """

    table: Any
    row: int
    column: str
    source: str
    fingerprint: str

    @property
    def name(self) -> str:
        """Table and row, counted from 1."""
        return f"{self.source}: row {self.row + 1}"

    def stamp(self) -> str:
        """Fingerprint of the table and number of the row."""
        return f"{self.fingerprint}\t{self.row}"

    def fact(self) -> str:
        """Nothing: the fingerprint depends on the machine."""
        return ""

    def read(self) -> bytes:
        """Reads the bytes, which are in the table or in a file that it names."""
        cell: Mapping[str, Any] = self.table[self.row][self.column]
        return Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]


@dataclass(frozen=True)
class ImageRow:
    """One image of a split and its class.

    Args:
        image: where it is kept.
        label: the class as the data names it, a name or a number.
        place: where the data says so, such as ``train800.txt:12``; used in error messages.
        key: its name within the data set, which stays when the data set is moved.
    """

    image: StoredImage
    label: str
    place: str
    key: str
