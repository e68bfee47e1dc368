"""What a recipe says of the optimiser and a resumed run does not use: a checkpoint's own settings go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

#: Settings of an optimiser's groups, by name and without their parameters.
Settings = list[dict[str, Any]]


def settings_of(optimizer: Optimizer) -> Settings:
    """What an optimiser was made with, group by group; to be read before a checkpoint's settings take their place."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def settings_not_used(wanted: Sequence[Settings], saved: Sequence[dict[str, Any]]) -> list[str]:
    """Finds settings that were changed between a checkpoint and the run that goes on from it.

    Args:
        wanted: of the run's optimisers, as its recipe made them; see :func:`settings_of`.
        saved: the optimisers' states in the checkpoint.

    Returns:
        A line for each, ready to be shown.

    Example:
        >>> import torch
        >>> def make(lr: float) -> Optimizer:
        ...     return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        >>> settings_not_used([settings_of(make(0.1))], [make(0.5).state_dict()])
        ['optimizer.lr 0.1 is not used: the checkpoint goes on with 0.5; start a new run to change it']
    """
    lines = []
    for groups, state in zip(wanted, saved, strict=True):
        for now, then in zip(groups, state["param_groups"], strict=False):
            for name, value in now.items():
                if name.startswith("initial_"):
                    continue
                # A schedule moves the rate and keeps the one it started from beside it.
                own, found = (group.get(f"initial_{name}", group.get(name)) for group in (now, then))
                known = isinstance(value, int | float | str | tuple) and name in then
                if isinstance(own, tuple) and isinstance(found, list):
                    found = tuple(found)
                if known and found != own:
                    lines.append(
                        f"optimizer.{name} {own} is not used: the checkpoint goes on with {found}; start a new run "
                        "to change it"
                    )
    return list(dict.fromkeys(lines))
