"""Batches of rows of similar length: less padding, and still another order each epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence

from wegeft_pl.data.order import BatchOrder

#: Global batches that are sorted by length together; more of them pad less and mix less.
MEGABATCH = 50


class GroupedOrder(BatchOrder):
    """A training order in which the rows of each global batch are of similar length.

    The epoch's shuffled rows are cut into stretches of 50 global batches; each stretch is sorted by length and cut into
    global batches, and then all global batches change places at random. The rows of a smaller last one stay the last.

    The order depends on the rows of a global batch. An epoch that goes on with another number of them keeps the order
    that it began with, so that no row is left out or repeated; batches then straddle two groups and pad a little more.

    Args:
        lengths: tokens of each row.
        batch_size: see :class:`BatchOrder`, as the rest.
        shuffle: False keeps the rows' own order.
        seed: see there.
        num_processes: see there.
        rank: see there.

    Example:
        >>> order = GroupedOrder([9, 1, 8, 2], batch_size=2, shuffle=True)
        >>> sorted(sorted(batch) for batch in order.batches())
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        num_processes: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(len(lengths), batch_size, shuffle, seed, num_processes, rank)
        self._lengths = lengths
        self._begun: tuple[int, int] | None = None

    def epoch_order(self) -> list[int]:
        """Returns the rows of the epoch in their order, over all processes."""
        rows = super().epoch_order()
        size = self.group_rows
        whole = len(rows) // size * size
        groups: list[list[int]] = []
        for start in range(0, whole, MEGABATCH * size):
            stretch = rows[start : min(start + MEGABATCH * size, whole)]
            stretch.sort(key=lambda row: -self._lengths[row])
            groups += [stretch[place : place + size] for place in range(0, len(stretch), size)]
        random.Random(f"groups {self.seed} {self.epoch}").shuffle(groups)
        return [row for group in groups for row in group] + rows[whole:]

    @property
    def group_rows(self) -> int:
        """Rows of a group in this epoch: the global batch's, or those of the run that began the epoch."""
        if self._begun is not None and self._begun[0] == self.epoch:
            return self._begun[1]
        return self.global_batch

    def state_dict(self) -> dict[str, int]:
        """Adds the rows of a group, which the order depends on."""
        return super().state_dict() | {"group_rows": self.group_rows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Keeps the order of an epoch that began with global batches of another size."""
        self._begun = state["epoch"], state["group_rows"]
