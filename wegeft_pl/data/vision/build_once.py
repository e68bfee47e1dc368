"""Builds a folder once, however many processes ask for it, and never leaves half of one."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Returns a folder, which the first process that asks for it builds while the others wait.

    It is built beside its place and moved there whole, so a process that is killed leaves only a folder ending in
    ``.partial``, which the next builder removes.

    Args:
        folder: that is wanted; where it exists it is complete.
        build: fills an empty folder.

    Returns:
        ``folder``.

    Raises:
        OSError: the disk is full, may not be written, or has no locks.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go where the file is closed, a kill included
        if folder.is_dir():
            return folder
        for left in folder.parent.glob(f"{folder.name}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        partial.mkdir()
        try:
            build(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
