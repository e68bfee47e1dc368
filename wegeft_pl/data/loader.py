"""A batch loader whose order is seeded, differs per epoch and resumes in the middle of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler


class EpochLoader:
    """Batches a dataset in a sampler's order; Lightning tells the sampler the epoch and saves the loader's position.

    Not a subclass of DataLoader on purpose: Lightning rebuilds DataLoaders with samplers of its own (it shuffles
    training data even where shuffle is False), and a rebuilt one restarts a resumed epoch at batch 0. Each epoch runs
    on a fresh DataLoader underneath.

    Args:
        dataset: a map-style dataset; the sampler's items are its keys.
        sampler: gives the order of an epoch, and this process's share of it.
        batch_size: examples per batch; the last batch may be smaller.
        collate: makes a batch of a list of examples.
        num_workers: processes that fetch batches; 0 suits data that is tokenised beforehand.

    Raises:
        ValueError: ``batch_size`` is below 1 or ``num_workers`` below 0.

    Source: LIGHTNING.md, silent traps 5 and 7.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: DistributedSampler,
        batch_size: int,
        collate: Callable[[list[Any]], Any],
        num_workers: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size
        self.collate = collate
        self.num_workers = num_workers
        self._position = {"epoch": 0, "batches": 0}
        self._resume = {"epoch": -1, "batches": 0}

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        epoch = self.sampler.epoch
        done = self._resume["batches"] if self._resume["epoch"] == epoch else 0
        self._resume = {"epoch": -1, "batches": 0}
        batches = list(BatchSampler(self.sampler, self.batch_size, drop_last=False))[done:]
        for number, batch in enumerate(
            DataLoader(
                self.dataset,
                batch_sampler=batches,  # type: ignore[arg-type]  # any sequence of key lists will do
                collate_fn=self.collate,
                num_workers=self.num_workers,
            ),
            done + 1,
        ):
            # Before the yield: a checkpoint is written while this batch is the last one handed out.
            self._position = {"epoch": epoch, "batches": number}
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Returns the epoch and the number of its batches handed out so far."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next pass over the same epoch skip the batches that were handed out before."""
        self._resume = dict(state)
        self._position = dict(state)
