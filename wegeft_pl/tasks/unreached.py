"""What the loss never reaches: a layer that the model's forward goes around would be trained without a word."""

from __future__ import annotations

import torch

from wegeft_pl.adapter import Adapter
from wegeft_pl.adapter.groups import Group
from wegeft_pl.adapter.targets import type_pattern


def unreached_groups(adapter: Adapter, device: torch.device) -> list[Group]:
    """The groups that got no gradient on any process; call it after a backward pass, on all processes alike.

    Args:
        adapter: attached, its generators with the gradients of a step.
        device: where the process group's tensors lie.

    Returns:
        Groups without a gradient; a zero is one.
    """
    reached = torch.tensor(
        [any(parameter.grad is not None for parameter in group.generator.parameters()) for group in adapter.groups],
        dtype=torch.int32,
        device=device,
    )
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(reached, op=torch.distributed.ReduceOp.MAX)
    return [group for group, found in zip(adapter.groups, reached.tolist(), strict=True) if not found]


def unreached_message(adapter: Adapter, unreached: list[Group]) -> tuple[str, bool]:
    """Says which layers were not reached.

    Args:
        adapter: whose groups they are.
        unreached: at least one of them.

    Returns:
        The message, and whether nothing of some kind of layer was reached, in any block: then it is an error, for the
        model does not call these layers; else chance may have done it, as with experts that no token chose.
    """
    kinds = {type_pattern(group.name) for group in adapter.groups if group not in unreached}
    lost = [group for group in unreached if type_pattern(group.name) not in kinds]
    names = [site.name for group in lost or unreached for site in group.sites]
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if lost:
        return (
            f"the first step left no gradient at {listed}: the model's forward does not call what is edited there; "
            "take it out of the targets"
        ), True
    return f"the first step left no gradient at {listed}; other blocks' layers of the kind have one", False
