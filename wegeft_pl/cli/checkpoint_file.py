"""A checkpoint that is to be loaded, looked at before anything expensive happens."""

from __future__ import annotations

from pathlib import Path

import torch

from wegeft_pl.cli.failure import UsageError
from wegeft_pl.cli.source import shown


def check_checkpoint(path: Path) -> None:
    """Refuses a file that is truncated or no checkpoint, and names the good neighbours it has.

    Args:
        path: a checkpoint; a folder, which sharded strategies write, is left to them.

    Raises:
        UsageError: the file cannot be read as a Lightning checkpoint of plain tensors.
    """
    if path.is_dir():
        return
    try:
        # Mapped, not read: what counts here is that the archive is whole. Nothing but tensors and plain types is built.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        problem = None if "state_dict" in content and "loops" in content else "is no Lightning checkpoint"
    except Exception as error:  # torch raises RuntimeError, EOFError and what unpickling raises
        problem = f"is truncated or no checkpoint ({type(error).__name__})"
    if problem is None:
        return
    others = sorted(shown(other) for other in path.parent.glob("*.ckpt") if other != path)
    way_out = f"beside it: {', '.join(others[:3])}" if others else "start anew with another --run_dir"
    raise UsageError(f"checkpoint {shown(path)} {problem}; {way_out}")
