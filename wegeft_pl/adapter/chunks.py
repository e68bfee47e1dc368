"""Cuts of a weight's rows: blocks to read and write, chunks to compute with."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

#: Numbers in a chunk: 512 KiB of float32. Smaller ones pay for calls, larger ones leave the cache.
CHUNK = 2**17
#: The same for GPUs, where a call costs more and there is no such cache.
GPU_CHUNK = 2**22
#: Bytes that are read or written at a time.
BLOCK = 2**20


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
