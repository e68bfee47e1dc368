"""A checkpoint that is to be loaded, looked at before anything expensive happens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wegeft_pl.cli.failure import UsageError
from wegeft_pl.cli.source import shown
from wegeft_pl.tasks.checkpoint_file import read_checkpoint


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint that can be read.

    Args:
        path: the file; a folder, which other strategies write, is left to them.
        step: optimiser steps behind it; None for a folder.
        note: a line to print, None if there is nothing to say.
    """

    path: Path
    step: int | None
    note: str | None = None


def check_checkpoint(path: Path) -> FoundCheckpoint:
    """Refuses a file that is truncated or no checkpoint, and names the good neighbours it has.

    Args:
        path: a checkpoint that was asked for by its name.

    Raises:
        UsageError: the file cannot be read as a Lightning checkpoint of plain tensors.
    """
    if path.is_dir():
        return FoundCheckpoint(path, None)
    try:
        return FoundCheckpoint(path, int(_finite(read_checkpoint(path))["global_step"]))
    except ValueError as error:
        others = [shown(other.path) for other in _good(path.parent) if other.path != path]
        way_out = f"good ones beside it: {', '.join(others[:3])}" if others else "start anew with another --run_dir"
        raise UsageError(f"checkpoint {shown(path)} {error}; {way_out}") from error


def newest_checkpoint(path: Path) -> FoundCheckpoint:
    """Finds the newest good checkpoint of a folder: ``last.ckpt``, or where it is missing or broken the next best.

    Args:
        path: ``last.ckpt``, whether it exists or not; at least one checkpoint lies beside it or is it.

    Raises:
        UsageError: none of the folder's checkpoints can be read.
    """
    problem = "is not there"
    if path.exists():
        try:
            return FoundCheckpoint(path, int(_finite(read_checkpoint(path))["global_step"]))
        except ValueError as error:
            problem = str(error)
    others = [other for other in _good(path.parent) if other.path != path]
    if not others:
        raise UsageError(
            f"--ckpt_path last: {shown(path)} {problem}, and no other checkpoint of its folder can be read; start anew "
            f"with another --run_dir, or remove {shown(path.parent)} to start over in this one"
        )
    best = others[0]
    note = f"{shown(path)} {problem}: going on from {shown(best.path)}, step {best.step}"
    return FoundCheckpoint(best.path, best.step, note)


def _good(folder: Path) -> list[FoundCheckpoint]:
    """Lists the good checkpoints of a folder, the one with the most steps first, then the one written last."""
    found: list[tuple[int, float, Path]] = []
    for path in folder.glob("*.ckpt"):
        try:
            found.append((int(_finite(read_checkpoint(path))["global_step"]), path.stat().st_mtime, path))
        except (ValueError, OSError):
            continue
    return [FoundCheckpoint(path, step) for step, _, path in sorted(found, reverse=True)]


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint itself, refused where what it holds would ruin the run."""
    for name, tensor in content["state_dict"].items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"holds NaN or infinite values ({name})")
    return content
