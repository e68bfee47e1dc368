"""Train and eval mode, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def preserved_modes(module: nn.Module) -> Iterator[None]:
    """Gives every module its own mode back, so that parts kept in eval during training stay there.

    Args:
        module: the root; its mode may be changed freely inside the block.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with preserved_modes(model):
        ...     model = model.eval()
        >>> [part.training for part in model]
        [True, False]
    """
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
