"""Where a data set's rows come from: local files by split, or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from wegeft_pl.data.rows import Row, check_row
from wegeft_pl.data.sources import Split as Split
from wegeft_pl.data.sources import find_path as find_path


def find_files(path: str) -> dict[Split, Path]:
    """Finds the files of a data set by split.

    Args:
        path: a .jsonl or .json file (then it is the training split), or a folder with train, and perhaps val and
            test, each .jsonl or .json.

    Returns:
        Split (train, val, test) to file; always with train.

    Raises:
        FileNotFoundError: there is no such path, or the folder has no training file.
        ValueError: the folder has both a .jsonl and a .json file for one split.
    """
    found = find_path(path)
    if found.is_file():
        return {"train": found}
    files: dict[Split, Path] = {}
    for split in get_args(Split):
        present = [
            found / f"{split}{ending}" for ending in (".jsonl", ".json") if (found / f"{split}{ending}").exists()
        ]
        if len(present) > 1:
            raise ValueError(f"data.path: {found} has both {present[0].name} and {present[1].name}; keep one")
        if present:
            files[split] = present[0]
    if "train" not in files:
        names = ", ".join(sorted(item.name for item in found.iterdir())) or "nothing"
        raise FileNotFoundError(f"data.path: folder {found} has no train.jsonl or train.json; it has {names}")
    return files


def read_hub_rows(repository: str, config: str, split: str, columns: Sequence[str]) -> list[Row]:
    """Reads a split of a hub data set through the ``datasets`` library, which keeps a copy on disk.

    Args:
        repository: the data set's id.
        config: the data set's configuration.
        split: the split's name on the hub.
        columns: the columns that each row must have, each a string.

    Returns:
        The rows in the hub's order.

    Raises:
        ModuleNotFoundError: the ``datasets`` library is not installed.
        ValueError: the hub cannot be reached or refuses, or a row is not as it should be.
    """
    rows = load_hub_split(repository, config, split)
    return [check_row(row, columns, f"{repository} {split}: row {number}") for number, row in enumerate(rows, 1)]


def load_hub_split(repository: str, config: str | None, split: str, revision: str | None = None) -> Iterable[Any]:
    """Fetches a split of a hub data set, of which the ``datasets`` library keeps a copy on disk.

    Args:
        repository: the data set's id.
        config: the data set's configuration; None where it has one only.
        split: the split's name on the hub.
        revision: a branch, tag or commit; None: the main branch.

    Returns:
        The rows in the hub's order, each a dict of columns.

    Raises:
        ModuleNotFoundError: the ``datasets`` library is not installed.
        ValueError: the hub cannot be reached or refuses.
    """
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "data.path is null, so the data comes from the hub, which needs: pip install wegeft-pl[hub] "
            "(or give data.path a local file or folder)"
        ) from None
    try:
        chosen = {} if revision is None else {"revision": revision}
        rows: Iterable[Any] = load_dataset(repository, config, split=split, **chosen)
    except OSError as error:  # no network, no such data set, no permission: all are OSErrors there
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"cannot load {repository} from the hub ({reason}); give data.path a local file or folder"
        ) from error
    return rows
