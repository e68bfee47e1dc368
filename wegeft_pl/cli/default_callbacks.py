"""The callbacks that every run gets unless its recipe lists one of the same class, and the order of all of them.

Named by class path: the package never imports its callbacks, a recipe and this table do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse._util import import_object
from lightning.pytorch import Callback

#: Where the recipe's other callbacks run.
RECIPE = "the recipe's own"
#: Only where the recipe lists it.
BEST = "wegeft_pl.callbacks.BestAdapter"

#: BestAdapter puts back what the others then save, score and merge; AdapterSaver comes next, so that the adapter is on
#: disk whatever fails at the end of training; merging comes after all that looks at the trained model; RunReport stays
#: last: it prints what the others have collected.
_FIT = (
    BEST,
    "wegeft_pl.callbacks.AdapterSaver",
    RECIPE,
    "wegeft_pl.callbacks.AdapterCheckpoint",
    "wegeft_pl.callbacks.Preemption",
    "wegeft_pl.callbacks.ParameterAccounting",
    "wegeft_pl.callbacks.MemoryAccounting",
    "wegeft_pl.callbacks.Throughput",
    "wegeft_pl.callbacks.AdapterMonitor",
    "wegeft_pl.callbacks.SampleWriter",
    "wegeft_pl.callbacks.AdapterMerge",
    "wegeft_pl.callbacks.RunReport",
)
_SCORE = (
    RECIPE,
    "wegeft_pl.callbacks.SampleWriter",
    "wegeft_pl.callbacks.RunReport",
)

DEFAULT_CALLBACKS = {"fit": _FIT, "validate": _SCORE, "test": _SCORE, "predict": _SCORE}

#: Not added when the recipe says `enable_checkpointing: false`, which Lightning refuses beside a checkpoint callback.
CHECKPOINTING = frozenset({"wegeft_pl.callbacks.AdapterCheckpoint", "wegeft_pl.callbacks.Preemption"})

#: Not added to a run without an adapter.
NEED_ADAPTER = frozenset(
    {
        "wegeft_pl.callbacks.AdapterSaver",
        "wegeft_pl.callbacks.AdapterMonitor",
        "wegeft_pl.callbacks.AdapterMerge",
    }
)


def with_defaults(command: str, listed: Sequence[Callback], unwanted: frozenset[str] = frozenset()) -> list[Callback]:
    """Adds the default callbacks that a run does not have yet and puts all in the order of the table.

    Args:
        command: fit, validate, test or predict.
        listed: the callbacks of the recipe.
        unwanted: class paths that this run cannot have.

    Returns:
        The recipe's callbacks, those of a default class in that class's place, and new ones for the other defaults.
    """
    table = DEFAULT_CALLBACKS[command]
    kinds: dict[str, Any] = {path: import_object(path) for path in table if path != RECIPE}
    rest = [callback for callback in listed if not isinstance(callback, tuple(kinds.values()))]
    ordered: list[Callback] = []
    for path in table:
        if path == RECIPE:
            ordered += rest
            continue
        mine = [callback for callback in listed if isinstance(callback, kinds[path])]
        ordered += mine or ([] if path in unwanted or path == BEST else [kinds[path]()])
    return ordered
