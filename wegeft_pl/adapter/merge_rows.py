"""The arithmetic of merging, for a few stored rows of one weight at a time.

The sum W + delta W is made in float32 (float64 for a float64 base) and rounded once. Work is cut into chunks that stay
in the processor's cache, so the memory needed does not depend on the weight's size.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from wegeft_pl.adapter.chunks import chunks
from wegeft_pl.adapter.report import LayerReport
from wegeft_pl.adapter.row_change import RowChange


@dataclass
class RowSums:
    """What a :class:`LayerReport` says, as sums that add up over parts of a weight.

    Args:
        old: sum of W squared.
        change: sum of delta W squared.
        lost: sum of squares of what rounding added or took.
        changed: how many stored values changed.
        numel: how many there are.
    """

    old: float = 0.0
    change: float = 0.0
    lost: float = 0.0
    changed: float = 0.0
    numel: float = 0.0

    def add(self, old: Tensor, change: Tensor, merged: Tensor, spare: Tensor) -> None:
        """Counts a chunk.

        Args:
            old: what was there, in the dtype of the arithmetic, contiguous; overwritten.
            change: what was wanted on top, in the same dtype.
            merged: what is stored now.
            spare: memory like ``old``'s, overwritten.
        """
        norms = [torch.linalg.vector_norm(old), torch.linalg.vector_norm(change)]
        applied = spare.copy_(merged).sub_(old)
        signs = torch.sign(applied, out=old).view(-1)
        norms += [torch.linalg.vector_norm(applied.sub_(change)), signs @ signs]  # faster than count_nonzero
        old_norm, change_norm, lost_norm, count = torch.stack(norms).tolist()
        self.old += old_norm**2
        self.change += change_norm**2
        self.lost += lost_norm**2
        self.changed += count
        self.numel += old.numel()

    def include(self, other: RowSums) -> None:
        """Adds the sums of further rows."""
        self.old += other.old
        self.change += other.change
        self.lost += other.lost
        self.changed += other.changed
        self.numel += other.numel

    def report(self, name: str) -> LayerReport:
        """The layer's report."""
        return LayerReport(
            name=name,
            relative_change=(self.change / self.old) ** 0.5 if self.old > 0 else float(self.change > 0),
            changed=self.changed / max(self.numel, 1),
            rounding_loss=(self.lost / self.change) ** 0.5 if self.change > 0 else 0.0,
        )


class Scratch(threading.local):
    """Memory for the arithmetic on one chunk after the other: fresh pages would cost more than the arithmetic.

    Every thread has its own.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)
        self._bytes: dict[str, Tensor] = {}

    def bytes(self, use: str, size: int) -> Tensor:
        """At least ``size`` bytes of host memory, uint8, the same again for the same use."""
        if use not in self._bytes or self._bytes[use].numel() < size:
            self._bytes[use] = torch.empty(size, dtype=torch.uint8)
        return self._bytes[use]

    def like(self, rows: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Three contiguous tensors of a chunk's shape, with whatever is in them."""
        size, memory = 3 * rows.numel(), self._memory
        if memory.numel() < size or memory.dtype != dtype or memory.device != rows.device:
            self._memory = torch.empty(size, dtype=dtype, device=rows.device)
        return [part.view(rows.shape) for part in self._memory[:size].split(rows.numel())]


def merge_rows(
    change: RowChange, first: int, rows: Tensor, dtype: torch.dtype, scratch: Scratch, memory: Tensor | None = None
) -> tuple[Tensor, RowSums]:
    """Merges rows.

    Args:
        change: of the whole weight.
        first: index of the first row in the whole weight.
        rows: (n, ...) as stored.
        dtype: of the merged rows; the arithmetic is in float32, or in float64 for float64.
        scratch: memory for the arithmetic.
        memory: uint8, large enough, for the merged rows; None takes fresh memory.

    Returns:
        The merged rows and their sums.
    """
    sums, exact = RowSums(), torch.promote_types(dtype, torch.float32)
    if memory is None:
        merged = torch.empty(rows.shape, dtype=dtype, device=rows.device)
    else:
        merged = memory[: rows.numel() * dtype.itemsize].view(dtype).view(rows.shape)
    for chunk in chunks(rows):
        old, wanted, total = scratch.like(rows[chunk], exact)
        change.put(first + chunk.start, old.copy_(rows[chunk]), wanted)
        merged[chunk].copy_(torch.add(old, wanted, out=total))
        sums.add(old, wanted, merged[chunk], total)
    return merged, sums


def replace_rows(base: Tensor, trained: Tensor, dtype: torch.dtype, scratch: Scratch) -> tuple[Tensor, RowSums]:
    """Puts trained rows in the place of the base's, rounded.

    Args:
        base: (n, ...) as stored.
        trained: of the same shape.
        dtype: of the rounded rows.
        scratch: memory.

    Returns:
        The rounded rows and their sums.
    """
    sums, rounded = RowSums(), trained.to(dtype)
    base, trained, stored = (part if part.ndim else part[None] for part in (base, trained, rounded))
    for chunk in chunks(trained):
        old, wanted, spare = scratch.like(trained[chunk], trained.dtype)
        torch.sub(trained[chunk], old.copy_(base[chunk]), out=wanted)
        sums.add(old, wanted, stored[chunk], spare)
    return rounded, sums
