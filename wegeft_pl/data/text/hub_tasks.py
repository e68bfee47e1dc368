"""Original data sets on the hub as tasks: where they are, and how their rows become instructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wegeft_pl.data.rows import Row
from wegeft_pl.data.sources import Split
from wegeft_pl.data.text.sources import load_hub_split

#: What a converter is given beside a row: the task's name and the row's place, for the result and for messages.
Converter = Callable[[Mapping[str, Any], str, str], Row]


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set on the hub.

    Args:
        repository: the data set's id.
        name: the split's name on the hub.
        convert: makes an instruction of one of its rows.
        configs: the configurations whose rows are taken, one behind the other; None: the only one.
        revision: the branch; None: the main one. Data sets that still are loading scripts have their data in files on
            ``refs/convert/parquet`` alone, where no configuration is named.
    """

    repository: str
    name: str
    convert: Converter
    configs: Sequence[str | None] = (None,)
    revision: str | None = None

    def read(self, task: str) -> list[Row]:
        """Fetches and converts the rows.

        Args:
            task: what the rows' task is called.

        Raises:
            ModuleNotFoundError: the ``datasets`` library is not installed.
            ValueError: the hub cannot be reached or refuses, or a row is faulty; its place is named.
        """
        rows = []
        for config in self.configs:
            where = "/".join(part for part in (self.repository, config) if part is not None)
            for number, row in enumerate(load_hub_split(self.repository, config, self.name, self.revision), 1):
                rows.append(self.convert(row, task, f"{where} {self.name}: row {number}"))
        return rows


#: The splits that a task has on the hub.
HubTask = Mapping[Split, HubSplit]


def hub_task(
    repository: str, convert: Converter, test: str = "test", config: str | None = None, revision: str | None = None
) -> HubTask:
    """Makes a task of a data set's training split and the split that stands for its test, mostly one with answers."""
    names: dict[Split, str] = {"train": "train", "test": test}
    return {split: HubSplit(repository, name, convert, (config,), revision) for split, name in names.items()}


def column(row: Mapping[str, Any], name: str, kind: type, place: str) -> Any:
    """Takes one column of a hub row.

    Args:
        row: the row.
        name: the column.
        kind: what it must hold: bool, int, str, list or dict.
        place: where the row stands.

    Raises:
        ValueError: the column is missing, or holds something else.
    """
    if name not in row:
        raise ValueError(f"{place}: no column {name!r}; this row has: {', '.join(map(str, row)) or 'none'}")
    value = row[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{place}: column {name!r} must hold {kind.__name__}, got {type(value).__name__}")
    return value


def pick(number: int, count: int, place: str) -> int:
    """Checks the number of the right choice, counted from 1.

    Raises:
        ValueError: it is none of 1 to ``count``, as in test splits whose answers are kept secret.
    """
    if not 1 <= number <= count:
        raise ValueError(f"{place}: the answer must be one of {count} choices, got number {number}")
    return number
