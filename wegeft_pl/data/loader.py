"""A batch loader whose order is seeded, differs per epoch and resumes in the middle of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, Dataset

from wegeft_pl.data.order import BatchOrder


class EpochLoader:
    """Collates a dataset in a given order; Lightning sets its epoch and saves its position in checkpoints.

    Not a subclass of DataLoader on purpose: Lightning rebuilds those with samplers of its own (it shuffles training
    data even where shuffle is False), a rebuilt one restarts a resumed epoch at batch 0, and its advice to add workers
    is wrong for data tokenised beforehand. Each epoch runs on a fresh DataLoader underneath, which draws nothing from
    torch's global generator: a validation or a resume would move the random numbers of training.

    The position is a number of rows of the epoch's order, counted over all processes, so that a run goes on at the
    right row with another number of processes or another batch size.

    Args:
        dataset: a map-style dataset.
        order: the batches of an epoch, as lists of the dataset's keys.
        collate: makes a batch of a list of examples.
        num_workers: processes that fetch batches; 0 suits data that is tokenised beforehand.
        blank: makes a batch count for nothing; for the one that ``order.has_spare`` speaks of.

    Source: LIGHTNING.md, silent traps 5 and 7.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: BatchOrder,
        collate: Callable[[list[Any]], Any],
        num_workers: int = 0,
        blank: Callable[[Any], Any] | None = None,
    ) -> None:
        self._dataset = dataset
        self._order = order
        self._collate = collate
        self._num_workers = num_workers
        self._blank = blank
        self._position = {"epoch": 0, "rows": 0}
        self._resume = {"epoch": -1, "rows": 0}

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Any]:
        epoch = self._order.epoch
        rows = self._resume["rows"] if self._resume["epoch"] == epoch else 0
        self._resume = {"epoch": -1, "rows": 0}
        batches: Sequence[list[int]] = self._order.batches(rows)
        loader = DataLoader(
            self._dataset,
            batch_sampler=batches,
            collate_fn=self._collate,
            num_workers=self._num_workers,
            generator=torch.Generator().manual_seed(epoch),
        )
        has_spare = self._order.has_spare_from(rows)
        for number, batch in enumerate(loader, 1):
            # Before the yield: a checkpoint is written while this batch is the last one handed out.
            had = min(rows + number * self._order.global_batch, self._order.num_rows)
            self._position = {"epoch": epoch, "rows": had}
            spare = self._blank is not None and number == len(batches) and has_spare
            yield self._blank(batch) if spare and self._blank is not None else batch

    @property
    def batch_sampler(self) -> BatchOrder:
        """The order, where Lightning looks for ``.sampler.set_epoch`` (see :attr:`BatchOrder.sampler`)."""
        return self._order

    @property
    def batches_done(self) -> int:
        """How many of this epoch's ``len(self)`` batches count as handed out."""
        return len(self) - self._order.num_batches(self._position["rows"])

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, over all processes."""
        return self._order.num_rows

    def state_dict(self) -> dict[str, int]:
        """Returns the epoch, its rows handed out so far and what the order depends on, such as the global batch."""
        return {**self._position, **self._order.state_dict()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next pass over the same epoch skip the rows that were handed out before."""
        self._resume = {name: state[name] for name in ("epoch", "rows")}
        self._position = dict(self._resume)
        self._order.load_state_dict(state)


class NoBatches(CombinedLoader):
    """A split without rows: Lightning skips its loop and, unlike with an empty list, does not warn about it."""

    def __init__(self) -> None:
        super().__init__([], "sequential")

    @property
    def flattened(self) -> list[Any]:
        """No loader at all."""
        return []

    @flattened.setter
    def flattened(self, flattened: list[Any]) -> None:
        assert not flattened

    def __len__(self) -> int:
        return 0
