"""Folders that appear only when they are complete, so that a failed or killed attempt blocks no later one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def unfinished(folder: Path) -> Path:
    """The hidden folder that is filled until it becomes ``folder``, for other processes that fill it too."""
    target = folder.resolve()
    return target.with_name(f".{target.name}.tmp")


@contextmanager
def whole_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a hidden folder beside ``folder`` to fill, and renames it to ``folder`` at the end of the block.

    Args:
        folder: the folder to end up with; its parents are made. It may exist and be empty.
        overwrite: replace a folder that holds something; until the end of the block that one stays as it is.

    Yields:
        The folder to fill, empty. It is removed when the block raises, and a killed run's is removed by the next one.

    Raises:
        OSError: the place cannot be written, or without ``overwrite`` the folder holds something by now.
    """
    target, building = folder.resolve(), unfinished(folder)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        if overwrite and target.exists():
            # Aside first: a kill between removing the old one and renaming the new one would lose both.
            aside = target.with_name(f".{target.name}.old")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(target, aside)
            os.replace(building, target)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
