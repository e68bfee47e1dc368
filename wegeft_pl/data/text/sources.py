"""Where a data set's rows come from: local files by split, or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from wegeft_pl.data.rows import Row, check_row, missing
from wegeft_pl.quickstart import bundled, is_bundled

Split = Literal["train", "val", "test"]


def find_path(path: str) -> Path:
    """Resolves a user's data path: ``bundled:NAME`` to the folder inside the package, ``~`` to the home folder.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    found = bundled(path) if is_bundled(path) else Path(path).expanduser()
    if not found.exists():
        raise FileNotFoundError(f"data.path: {missing(found)}")
    return found


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
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "data.path is null, so the data comes from the hub, which needs: pip install wegeft-pl[hub] "
            "(or give data.path a local file or folder)"
        ) from None
    try:
        rows = load_dataset(repository, config, split=split)
    except OSError as error:  # no network, no such data set, no permission: all are OSErrors there
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"cannot load {repository} from the hub ({reason}); give data.path a local file or folder"
        ) from error
    return [check_row(row, columns, f"{repository} {split}: row {number}") for number, row in enumerate(rows, 1)]
