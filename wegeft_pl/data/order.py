"""Which rows make which batch, on which process and in which epoch."""

from __future__ import annotations

import math
import random
from itertools import pairwise


class BatchOrder:
    """Shares rows out among processes and cuts each share into batches, as many on every process.

    In training the order is shuffled, another one each epoch. The batches of all processes at one place are together
    one global batch, the next ``batch_size * num_processes`` rows of the order: processes may change in number from one
    part of a run to the next, and as long as the global batch is equal, so are its rows. In evaluation the order is the
    data's own, and the batches of one process differ by at most one row in size.

    Shares may differ by one row, and no row counts twice. Only a process that would get fewer batches than another one
    repeats a row, alone in its last batch, and :attr:`has_spare` says so; the loader takes labels and id off it.

    Args:
        num_rows: rows of the split.
        batch_size: most rows per batch.
        shuffle: training order or evaluation order.
        seed: seed of the shuffle, together with the epoch.
        num_processes: among how many processes the rows are shared out.
        rank: which of them this one is.

    Example:
        >>> BatchOrder(7, batch_size=2, num_processes=2, rank=0).batches()
        [[0, 2], [4, 6]]
        >>> BatchOrder(7, batch_size=2, num_processes=2, rank=1).batches()
        [[1, 3], [5]]
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        num_processes: int = 1,
        rank: int = 0,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_processes = num_processes
        self.rank = rank
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_batches(0)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which the next shuffle depends on; Lightning calls it."""
        self.epoch = epoch

    @property
    def sampler(self) -> BatchOrder:
        """Itself: Lightning sets the epoch of ``loader.batch_sampler.sampler``.

        The loader has no ``sampler`` of its own: ``overfit_batches`` would warn about it and try to replace it.
        """
        return self

    @property
    def has_spare(self) -> bool:
        """Whether this process's last batch only keeps step with the others, with a row that counts elsewhere.

        Example:
            >>> orders = [BatchOrder(3, batch_size=1, num_processes=2, rank=rank) for rank in (0, 1)]
            >>> [(order.batches(), order.has_spare) for order in orders]
            [([[0], [2]], False), ([[1], [1]], True)]
        """
        return self.has_spare_from(0)

    @property
    def global_batch(self) -> int:
        """Rows that all processes take together at one place."""
        return self.batch_size * self.num_processes

    def num_batches(self, first: int) -> int:
        """Counts the batches, of every process, that the rows of an epoch from number ``first`` on make."""
        return math.ceil(math.ceil((self.num_rows - first) / self.num_processes) / self.batch_size)

    def batches(self, first: int = 0) -> list[list[int]]:
        """Returns this process's batches of the epoch as lists of row numbers.

        Args:
            first: how many rows of the epoch's order the processes have had already, together.
        """
        if not self.shuffle:
            done = math.ceil(first / self.global_batch)
            return self._even(list(range(self.num_rows))[self.rank :: self.num_processes])[done:]
        order = self.epoch_order()
        share = order[first:][self.rank :: self.num_processes]
        batches = [share[start : start + self.batch_size] for start in range(0, len(share), self.batch_size)]
        return batches + ([order[:1]] if self.has_spare_from(first) else [])

    def epoch_order(self) -> list[int]:
        """Returns the rows of the epoch in their shuffled order, over all processes."""
        # A text as the seed: with seed + epoch, epoch 1 of seed 42 would be epoch 0 of seed 43.
        return random.Random(f"{self.seed} {self.epoch}").sample(range(self.num_rows), self.num_rows)

    def state_dict(self) -> dict[str, int]:
        """Returns what an epoch's order depends on beside its seed; checkpoints keep it with the place in the data."""
        return {"global_batch": self.global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes up the place of a checkpoint; this order is the same whatever the global batch was."""

    def has_spare_from(self, first: int) -> bool:
        """Tells the same where the processes have had ``first`` rows of the epoch's order before."""
        if not self.shuffle:
            return len(range(self.rank, self.num_rows, self.num_processes)) < len(self)
        own = len(range(first + self.rank, self.num_rows, self.num_processes))
        return math.ceil(own / self.batch_size) < self.num_batches(first)

    def _even(self, share: list[int]) -> list[list[int]]:
        if self.has_spare:
            share += (share or [0])[:1]
        size, larger = divmod(len(share), len(self))
        starts = [number * size + min(number, larger) for number in range(len(self) + 1)]
        return [share[start:stop] for start, stop in pairwise(starts)]
