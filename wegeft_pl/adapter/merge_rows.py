"""The arithmetic of merging, for a few stored rows of one weight at a time.

The sum W + delta W is made in float32 (float64 for a float64 base) and rounded once. Work is cut into chunks that stay
in the processor's cache, so the memory needed does not depend on the weight's size.

Shapes: n rows of a weight's first stored axis, D the edited width, R rank, G groups, Q numbers in a row.
"""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wegeft_pl.adapter.layout import bias_of
from wegeft_pl.adapter.report import LayerReport
from wegeft_pl.adapter.sites import Site, evaluate

#: Numbers in a chunk: 512 KiB of float32. Smaller ones pay for calls, larger ones leave the cache.
CHUNK = 2**17
#: The same for GPUs, where a call costs more and there is no such cache.
GPU_CHUNK = 2**22
#: Bytes that are read or written at a time.
BLOCK = 2**20


class RowChange(ABC):
    """The change of one weight, computed for any of its rows; the scale s is folded in."""

    @abstractmethod
    def put(self, first: int, rows: Tensor, out: Tensor) -> None:
        """Computes the change of some rows.

        Args:
            first: the first row's index in the whole weight.
            rows: (n, ...) in the dtype of the arithmetic, contiguous.
            out: receives the change; of the same shape and dtype, contiguous.
        """


@dataclass(frozen=True)
class Within(RowChange):
    """A change that every row owes to itself alone: row @ down @ up along its features, the second stored axis.

    Args:
        down: (D, R), the scale folded in.
        up: (R, D).
    """

    down: Tensor
    up: Tensor

    def put(self, first: int, rows: Tensor, out: Tensor) -> None:
        """See :class:`RowChange`."""
        if rows.ndim == 2:
            torch.mm(rows @ self.down, self.up, out=out)
        else:
            out.copy_((rows.movedim(1, -1) @ self.down @ self.up).movedim(-1, 1))


@dataclass
class Across(RowChange):
    """A change that mixes rows: up @ (down @ W) within each group of rows; needs the product with all rows first.

    Args:
        down: (R, P) with P rows in a group.
        up: (P, R), the scale folded in.
        groups: G.
    """

    down: Tensor
    up: Tensor
    groups: int = 1
    #: down @ W (G, R, Q); set before any change is computed.
    product: Tensor = field(default_factory=lambda: torch.empty(0))

    def share(self, first: int, rows: Tensor) -> Tensor:
        """What some rows (n, ...), the first one at index ``first``, add to the product (G, R, Q)."""
        share = self.down.new_zeros(self.groups, self.down.shape[0], rows.shape[1:].numel())
        for chunk in chunks(rows):
            flat = rows[chunk].reshape(chunk.stop - chunk.start, -1).to(self.down.dtype)
            for group, inside, part in self._segments(first + chunk.start, len(flat)):
                share[group].addmm_(self.down[:, inside], flat[part])
        return share

    def gather(self, shares: Iterable[Tensor]) -> None:
        """Adds shares up to the product, in their order."""
        self.product = functools.reduce(Tensor.add_, shares)

    def put(self, first: int, rows: Tensor, out: Tensor) -> None:
        """See :class:`RowChange`."""
        flat = out.view(len(rows), -1)
        for group, inside, part in self._segments(first, len(rows)):
            torch.mm(self.up[inside], self.product[group], out=flat[part])

    def _segments(self, first: int, count: int) -> Iterator[tuple[int, slice, slice]]:
        """Cuts rows where groups end: group, the rows' places in the group, and their places among ``count``."""
        size, done = self.up.shape[0], 0
        while done < count:
            group, place = divmod(first + done, size)
            take = min(size - place, count - done)
            yield group, slice(place, place + take), slice(done, done + take)
            done += take


@dataclass(frozen=True)
class Whole(RowChange):
    """A change that had to be made for the whole weight at once.

    Args:
        change: in the weight's stored shape.
    """

    change: Tensor

    def put(self, first: int, rows: Tensor, out: Tensor) -> None:
        """See :class:`RowChange`."""
        out.copy_(self.change[first : first + len(rows)])


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


def weight_change(
    site: Site, dtype: torch.dtype, weight: Callable[[], Tensor], whole: Callable[[Tensor], Tensor] = lambda x: x
) -> RowChange:
    """Finds how a site's stored weight changes.

    Args:
        site: the edited layer.
        dtype: of the arithmetic.
        weight: gives the whole weight as stored; asked only where the generator is not linear in it.
        whole: makes a sharded parameter of the generator whole.

    Returns:
        The change; an :class:`Across` has still to gather its product.
    """
    generator, layout, side, scale = site.generator, site.layout, site.config.side, site.config.scale
    if not generator.can_edit:
        matrix = layout.to_matrix(weight().to(dtype), side)
        left, right = evaluate(generator, matrix, dtype, whole)
        return Whole(layout.from_matrix(scale * left @ right, side))
    phi, psi = (whole(factor.detach()).to(dtype) for factor in (generator.phi, generator.psi))
    if layout.kind == "conv1d":  # stored transposed: its rows are input features
        if side == "input":
            return Across(phi.T.contiguous(), scale * psi.T.contiguous())
        return Within(scale * psi.T.contiguous(), phi.T.contiguous())
    if side == "input":
        return Within(scale * phi, psi)
    return Across(psi, scale * phi, layout.groups)


def moves_bias(site: Site) -> bool:
    """Whether a site's bias changes: it has one, and the output side is edited."""
    return site.config.side == "output" and bias_of(site.module) is not None


def bias_change(site: Site, dtype: torch.dtype, whole: Callable[[Tensor], Tensor] = lambda x: x) -> Across:
    """How a site's bias (O,) changes where it does: s phi (psi b) within each group; see :func:`weight_change`."""
    phi, psi = (whole(factor.detach()).to(dtype) for factor in (site.generator.phi, site.generator.psi))
    return Across(psi, site.config.scale * phi, site.layout.groups)


def blocks(first: int, last: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Cuts rows ``first`` to ``last - 1`` into blocks of about :data:`BLOCK` bytes to read and write, at least one row.

    Example:
        >>> list(blocks(0, 5, BLOCK // 2))
        [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, BLOCK // max(1, row_bytes))
    for start in range(first, last, step):
        yield start, min(start + step, last)


def chunks(rows: Tensor) -> Iterator[slice]:
    """Cuts rows into chunks of about :data:`CHUNK` numbers to compute with, at least one row each."""
    step = max(1, (CHUNK if rows.device.type == "cpu" else GPU_CHUNK) // max(1, rows[:1].numel()))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))


def blocks_of(tensor: Tensor) -> list[slice]:
    """The blocks of a tensor in memory."""
    return [slice(*span) for span in blocks(0, len(tensor), tensor[:1].nbytes)]
