"""Counts the bytes of tensors that are alive, moment by moment, and remembers the peak.

It sees every operation below autograd, so it counts what the backward pass keeps, what it recomputes under gradient
checkpointing and what lives only for a moment. It reads sizes, never values, so it works on the meta device too.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class LiveBytes(TorchDispatchMode):
    """While active, adds up the storages that operations make and takes them off when the last user drops them.

    Args:
        ignored: tensors whose storages are not counted: parameters, buffers, the batch.

    Example:
        >>> import torch
        >>> with LiveBytes([]) as live:
        ...     x = torch.zeros(1000, dtype=torch.float32)
        ...     y = (x + 1).view(10, 100)  # a view shares its storage
        ...     del x
        >>> live.now, live.peak
        (4000, 8000)
    """

    def __init__(self, ignored: Iterable[Tensor]) -> None:
        super().__init__()
        #: Bytes alive now.
        self.now = 0
        #: The most bytes alive at any moment.
        self.peak = 0
        # The tensors are held, so that no new storage can get an ignored one's identity.
        self._ignored = list(ignored)
        self._known: dict[int, int] = {identity(tensor): 0 for tensor in self._ignored}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, output)
        return output

    def leave_out(self, tensor: Tensor) -> None:
        """Stops counting a tensor from now on, because it is accounted for elsewhere (a gradient)."""
        self.now -= self._known.get(identity(tensor), 0)
        self._known[identity(tensor)] = 0

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = identity(tensor)
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


def identity(tensor: Tensor) -> int:
    """What tensors share that are views of one memory; addresses cannot tell on the meta device, where all are 0."""
    key: int = tensor.untyped_storage()._cdata
    return key
