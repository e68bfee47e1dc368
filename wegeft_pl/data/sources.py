"""The splits that a data set has, and the local file or folder that a user's path names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from wegeft_pl.data.rows import missing
from wegeft_pl.quickstart import bundled, is_bundled

Split = Literal["train", "val", "test"]


def find_path(path: str, option: str = "data.path") -> Path:
    """Resolves a user's data path: ``bundled:NAME`` to the folder inside the package, ``~`` to the home folder.

    Args:
        path: as the user wrote it.
        option: the option that it was written for, named where nothing is there.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    found = bundled(path) if is_bundled(path) else Path(path).expanduser()
    if not found.exists():
        raise FileNotFoundError(f"{option}: {missing(found)}")
    return found
