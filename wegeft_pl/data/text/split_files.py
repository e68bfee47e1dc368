"""Finds which table in a folder is which split, by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from wegeft_pl.data.sources import Split, find_path
from wegeft_pl.data.table_files import ENDINGS, ending_of

#: Words in a file's name that say which split it is.
WORDS: dict[Split, frozenset[str]] = {
    "train": frozenset({"train", "training"}),
    "val": frozenset({"val", "valid", "validation", "dev", "devel", "development"}),
    "test": frozenset({"test", "testing"}),
}

_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)$")


def find_split_files(path: str, named: Mapping[Split, str | None]) -> tuple[dict[Split, list[Path]], list[str]]:
    """Finds the tables of each split.

    A file belongs to a split if one of its words is in its name: ``train.tsv``, ``in_domain_dev.csv``,
    ``test-00000-of-00002.parquet`` (parts are read in order). A folder's only table may have any name, and is train.

    Args:
        path: a table (then it is train) or a folder of tables.
        named: files in the folder that the user gives a split by name; they come before any word.

    Returns:
        Files by split, with train always, and the names of tables that are not used.

    Raises:
        FileNotFoundError: there is no such path or named file, or no table that could be train.
        ValueError: a name says two splits, two files say the same split, or parts are missing.
    """
    found = find_path(path)
    given = {split: name for split, name in named.items() if name is not None}
    if found.is_file():
        if given:
            raise ValueError(
                f"data.{next(iter(given))}_file names a file in a folder, but data.path is the file {found}"
            )
        return {"train": [found]}, []
    tables = sorted(item.name for item in found.iterdir() if item.is_file() and ending_of(item.name) is not None)
    by_split: dict[Split, list[Path]] = {}
    for split, name in given.items():
        if not (found / name).is_file():
            raise FileNotFoundError(f"data.{split}_file: no file {name} in {found}; it has {_listed(tables)}")
        by_split[split] = [found / name]
    left = [name for name in tables if name not in given.values()]
    candidates: dict[Split, list[str]] = {}
    for name in left:
        split_of = split_in(name)
        if split_of is not None and split_of not in given:
            candidates.setdefault(split_of, []).append(name)
    for split, names in candidates.items():
        by_split[split] = [found / name for name in one_table(names, split, found)]
    if "train" not in by_split and len(left) == len(tables) == 1:
        by_split["train"] = [found / tables[0]]
    if "train" not in by_split:
        raise FileNotFoundError(
            f"data.path: no training table in {found} (its name must have the word train, or data.train_file name it); "
            f"it has {_listed(tables)}"
        )
    used = {file.name for files in by_split.values() for file in files}
    in_order = {split: by_split[split] for split in WORDS if split in by_split}
    return in_order, [name for name in tables if name not in used]


def split_in(name: str) -> Split | None:
    """Which split the words of a file's name say; None where they say none.

    Raises:
        ValueError: they say two.

    Example:
        >>> split_in("in_domain_dev.tsv"), split_in("SST2-Train.csv.gz"), split_in("contest.csv")
        ('val', 'train', None)
    """
    words = set(re.split(r"[^a-z]+", _stem(name.lower())))
    splits = [split for split, known in WORDS.items() if words & known]
    if len(splits) > 1:
        raise ValueError(
            f"{name}: the name says both {splits[0]} and {splits[1]}; rename the file, or name files with "
            "data.train_file, data.val_file and data.test_file"
        )
    return splits[0] if splits else None


def one_table(names: list[str], split: Split, folder: Path) -> list[str]:
    """The files of one split's table: a single one, or all the numbered parts of one in order.

    Args:
        names: of the files whose names say the split.
        split: the split.
        folder: that they are in.

    Raises:
        ValueError: there are several tables, or parts of one are missing.
    """
    if len(names) == 1 and not _SHARD.match(_stem(names[0])):
        return names
    shards = [_SHARD.match(_stem(name)) for name in names]
    whole = {(shard[1], shard[3]) for shard in shards if shard is not None}
    if None in shards or len(whole) > 1:
        raise ValueError(
            f"data.path: {len(names)} tables in {folder} say {split}: {_listed(names)}; keep one, or name it with "
            f"data.{split}_file"
        )
    numbers = sorted(int(shard[2]) for shard in shards if shard is not None)
    wanted = list(range(int(next(iter(whole))[1])))
    if numbers != wanted:
        missing = sorted(set(wanted) - set(numbers))
        raise ValueError(
            f"data.path: of {len(wanted)} parts of {split} in {folder}, {len(numbers)} are there; "
            f"{f'number {missing[0]} is missing' if missing else 'some are there twice'}"
        )
    return sorted(names, key=lambda name: int(_SHARD.match(_stem(name))[2]))  # type: ignore[index]


def _stem(name: str) -> str:
    for ending in ENDINGS:
        name = name.removesuffix(".gz").removesuffix(ending)
    return name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no table"
