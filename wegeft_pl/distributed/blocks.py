"""The repeated blocks of a model: the units that are sharded, compiled and checkpointed one by one."""

from __future__ import annotations

from torch import nn

from wegeft_pl.adapter.owner import OWNER


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Finds a model's repeated blocks, the outermost ones.

    They are the children of a list (``nn.ModuleList``, or ``nn.Sequential`` as timm has it) that are all of one class,
    have parameters, and are made of further modules.

    Args:
        model: any module.

    Returns:
        Blocks by name in the model's order; empty where nothing repeats.

    Example:
        >>> block = lambda: nn.ModuleDict({"up": nn.Linear(2, 4), "down": nn.Linear(4, 2)})
        >>> list(blocks_of(nn.ModuleDict({"embed": nn.Linear(1, 2), "layers": nn.ModuleList([block(), block()])})))
        ['layers.0', 'layers.1']
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        # A generator may hold blocks of its own; it belongs to the unit that owns it.
        inside = any(name.startswith(f"{outer}.") for outer in found) or OWNER in name.split(".")
        if inside or not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        children = {key: child for key, child in module.named_children() if key != OWNER}
        if len({type(child) for child in children.values()}) == 1 and all(map(_is_block, children.values())):
            found |= {f"{name}.{key}" if name else key: child for key, child in children.items()}
    return found


def _is_block(module: nn.Module) -> bool:
    return next(module.children(), None) is not None and next(module.parameters(), None) is not None
