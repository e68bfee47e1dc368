"""A folder of checkpoints after a kill: nothing half-written and nothing forgotten stays in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wegeft_pl.tasks.checkpoint_file import read_checkpoint


def temporary_name(final: Path) -> Path:
    """Where a checkpoint is written before it is renamed: beside its place, hidden."""
    return final.with_name(f".{final.name}.tmp")


def remove_half_written(folder: Path) -> None:
    """Removes what a killed process left behind in the middle of a write."""
    for path in folder.glob(".*.ckpt.tmp"):
        path.unlink(missing_ok=True)


def remove_forgotten(folder: Path, state_key: str, state: dict[str, Any]) -> list[Path]:
    """Removes checkpoints that a killed process wrote or was about to remove, and that its ``last`` knows nothing of.

    Without this every kill between two writes could leave one more file for good. A file counts as forgotten if it
    names itself as one of the kept checkpoints in the state it carries, which a copy made by hand does not.

    Args:
        folder: of the checkpoints.
        state_key: of the callback that wrote them.
        state: of that callback in the checkpoint that the run goes on from.

    Returns:
        The paths removed.
    """
    known = _kept(state) | {state["last_model_path"]}
    removed = []
    for path in sorted(folder.glob("*.ckpt")):
        if str(path) in known or path.stem == "last":
            continue
        try:
            own = read_checkpoint(path)["callbacks"].get(state_key)
        except ValueError:
            continue  # not ours to judge
        if own is not None and str(path) in _kept(own):
            path.unlink()
            removed.append(path)
    return removed


def _kept(state: dict[str, Any]) -> set[str]:
    return {*state["best_k_models"], state["best_model_path"], state["kth_best_model_path"]}
