"""What a recipe says of the optimiser and a resumed run does not use: a checkpoint's own settings go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer


def settings_not_used(optimizers: Sequence[Optimizer], saved: Sequence[dict[str, Any]]) -> list[str]:
    """Finds settings that were changed between a checkpoint and the run that goes on from it.

    Args:
        optimizers: of the run, as its recipe made them.
        saved: their states in the checkpoint.

    Returns:
        A line for each, ready to be shown.

    Example:
        >>> import torch
        >>> def make(lr: float) -> Optimizer:
        ...     return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        >>> settings_not_used([make(0.1)], [make(0.5).state_dict()])
        ['optimizer.lr 0.1 is not used: the checkpoint goes on with 0.5; start a new run to change it']
    """
    lines = []
    for optimizer, state in zip(optimizers, saved, strict=True):
        for group in state["param_groups"]:
            for name, wanted in optimizer.defaults.items():
                # A schedule moves the rate and keeps the one it started from beside it.
                found = group.get(f"initial_{name}", group.get(name))
                known = isinstance(wanted, int | float | str | tuple) and name in group
                if known and found != wanted and not (isinstance(wanted, tuple) and tuple(found) == wanted):
                    lines.append(
                        f"optimizer.{name} {wanted} is not used: the checkpoint goes on with {found}; start a new run "
                        "to change it"
                    )
    return list(dict.fromkeys(lines))
