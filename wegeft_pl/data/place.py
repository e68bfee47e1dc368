"""The place in the training data that a checkpoint names, and whether it is a place in this data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: What a description holds beside what training rows are made of.
_ELSEWHERE = {"name", "path"}
_OTHER_SPLITS = {"val", "test"}


def training_data(description: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps of a data module's description what decides about its training rows and their order.

    Args:
        description: of ``describe()``; dicts by split count for train only, hashes for all files but val and test.

    Returns:
        Plain types. Where the data lies is not among them, so that it can be moved.

    Example:
        >>> training_data({"path": "/tmp/a", "seed": 1, "rows": {"train": 8, "val": 2}})
        {'seed': 1, 'rows': 8}
    """
    kept: dict[str, Any] = {}
    for name, value in description.items():
        if name == "sha256":
            kept[name] = {file: sha for file, sha in value.items() if Path(file).stem not in _OTHER_SPLITS}
        elif isinstance(value, Mapping):
            kept[name] = value.get("train")
        elif name not in _ELSEWHERE:
            kept[name] = value
    return kept


def check_same_data(state: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    """Refuses a place in other training data, where going on would repeat some rows and leave others out.

    Args:
        state: the data module's section of a checkpoint.
        description: of the data that is here.

    Raises:
        ValueError: the data, its order or the way it is tokenised is another, or an earlier version of this package
            wrote the checkpoint.
    """
    if not {"epoch", "rows", "global_batch", "data"} <= state.keys():
        raise ValueError(
            "this checkpoint was written by an earlier version of wegeft_pl and does not say where it is in the data; "
            "start anew with another --run_dir"
        )
    saved, here = state["data"], training_data(description)
    for name in [*saved, *(here.keys() - saved.keys())]:
        if saved.get(name) != here.get(name):
            raise ValueError(
                f"this checkpoint was trained on other data: {name} was {saved.get(name)!r} and is {here.get(name)!r}; "
                "give the data options of that run, or start anew on --adapter_path with another --run_dir"
            )


def other_batch(state: Mapping[str, Any], global_batch: int, rows: int) -> str | None:
    """Says what happens where a run goes on in mid-epoch with global batches of another size.

    Args:
        state: the data module's section of a checkpoint.
        global_batch: rows that all processes take together now.
        rows: rows of an epoch.

    Returns:
        One line, or None where there is nothing to say.
    """
    if state["global_batch"] == global_batch or state["rows"] >= rows:
        return None
    return (
        f"the global batch was {state['global_batch']} rows and is {global_batch}: epoch {state['epoch']} goes on "
        f"behind row {state['rows']:,} of {rows:,} in batches of the new size, unlike a run that never stopped"
    )
