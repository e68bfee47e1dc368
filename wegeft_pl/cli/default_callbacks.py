"""The callbacks that every run gets unless its recipe lists one of the same class.

Named by class path: the package never imports its callbacks, a recipe and this table do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse._util import import_object
from lightning.pytorch import Callback

#: RunReport stays last: it prints what the others have collected.
_FIT = (
    "wegeft_pl.callbacks.AdapterCheckpoint",
    "wegeft_pl.callbacks.ParameterAccounting",
    "wegeft_pl.callbacks.MemoryAccounting",
    "wegeft_pl.callbacks.Throughput",
    "wegeft_pl.callbacks.AdapterMonitor",
    "wegeft_pl.callbacks.SampleWriter",
    "wegeft_pl.callbacks.AdapterMerge",
    "wegeft_pl.callbacks.RunReport",
)
_SCORE = (
    "wegeft_pl.callbacks.SampleWriter",
    "wegeft_pl.callbacks.RunReport",
)

DEFAULT_CALLBACKS = {"fit": _FIT, "validate": _SCORE, "test": _SCORE, "predict": _SCORE}

#: Left out when the recipe says `enable_checkpointing: false`, which Lightning refuses beside a checkpoint callback.
CHECKPOINTING = {"wegeft_pl.callbacks.AdapterCheckpoint"}


def missing_callbacks(command: str, present: Sequence[Callback], checkpointing: bool) -> list[Callback]:
    """Makes the default callbacks that a run does not have yet.

    Args:
        command: fit, validate, test or predict.
        present: the callbacks of the recipe.
        checkpointing: whether the trainer may write checkpoints.

    Returns:
        New callbacks, in the order of the table.
    """
    made: list[Callback] = []
    for class_path in DEFAULT_CALLBACKS[command]:
        if class_path in CHECKPOINTING and not checkpointing:
            continue
        kind: Any = import_object(class_path)
        if not any(isinstance(callback, kind) for callback in present):
            made.append(kind())
    return made
