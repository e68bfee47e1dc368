"""A checkpoint as a file: read whole or not at all, and nothing in it is run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of plain types and tensors; the tensors are mapped from the file, not copied.

    Args:
        path: a file written by Lightning.

    Returns:
        What is in it.

    Raises:
        ValueError: the file is cut off, damaged, holds anything but tensors and plain types, or is no checkpoint; the
            text goes on from the file's name ("is truncated ...").
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums that it wrote
        if damaged is not None:
            raise ValueError(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zipfile and torch raise RuntimeError, EOFError and what unpickling raises
        raise ValueError(f"is truncated or no checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or not {"state_dict", "loops", "global_step"} <= content.keys():
        raise ValueError("is no Lightning checkpoint")
    return content
