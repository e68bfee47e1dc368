"""Several samples in one row: which ones, in which order, and as what batch.

Shapes: B rows, T tokens of the longest row.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from wegeft_pl.data.order import BatchOrder
from wegeft_pl.data.text.collate import Batch, LossCollator, pad
from wegeft_pl.data.text.tokenize import EncodedExample
from wegeft_pl.losses import IGNORED

Examples = Sequence[EncodedExample]

#: Samples that are packed together; more of them fill rows hardly better and take longer to place.
WINDOW = 4096


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Fills rows with samples, the longest first, each into the first row that has room for it.

    Args:
        lengths: tokens of each sample, each from 1 to ``capacity``.
        capacity: most tokens of a row.

    Returns:
        For each row the numbers of its samples; every number once.

    Raises:
        ValueError: a sample is longer than a row.

    Example:
        >>> first_fit_decreasing([3, 5, 2, 4], capacity=8)
        [[1, 0], [3, 2]]
    """
    if lengths and max(lengths) > capacity:
        raise ValueError(f"a sample of {max(lengths)} tokens does not fit a row of {capacity}; raise data.max_length")
    room = np.full(len(lengths), capacity, dtype=np.int64)
    rows: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        # One row more than are in use: it is empty, so there always is one with room.
        row = int(np.argmax(room[: len(rows) + 1] >= lengths[number]))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        room[row] -= lengths[number]
    return rows


class PackedRows(Dataset[list[EncodedExample]]):
    """Samples packed into rows; no sample is split, left out or repeated.

    Samples are drawn into windows by the seed, and each window is packed once: every epoch has as many rows, and a
    place in it means the same on any number of processes.

    Args:
        examples: the samples, by number.
        lengths: tokens of each sample.
        capacity: most tokens of a row.
        seed: of the windows.

    Raises:
        ValueError: a sample is longer than a row.
    """

    def __init__(self, examples: Examples, lengths: Sequence[int], capacity: int, seed: int) -> None:
        self.examples = examples
        self.lengths = lengths
        self.packs: list[tuple[int, ...]] = []
        drawn = random.Random(f"packing {seed}").sample(range(len(lengths)), len(lengths))
        for start in range(0, len(drawn), WINDOW):
            window = drawn[start : start + WINDOW]
            packed = first_fit_decreasing([lengths[number] for number in window], capacity)
            self.packs += [tuple(window[place] for place in row) for row in packed]

    def __len__(self) -> int:
        """Number of packed rows."""
        return len(self.packs)

    def __getitem__(self, pack: tuple[int, ...]) -> list[EncodedExample]:
        """Returns the samples of a row, which is named by their numbers (not by its own)."""
        return [self.examples[number] for number in pack]


class PackedOrder(BatchOrder):
    """Gives packed rows as tuples of samples' numbers, where its base class gives numbers of rows.

    From one epoch to the next, rows change places, and samples of equal length trade places among rows: rows stay as
    full as they were, and the company of a sample changes.

    Args:
        rows: the dataset.
        order: the arguments of :class:`BatchOrder` after the number of rows.
    """

    def __init__(self, rows: PackedRows, *order: Any) -> None:
        super().__init__(len(rows), *order)
        self._packs = rows.packs
        self._num_samples = len(rows.lengths)
        self._of_length: dict[int, list[int]] = {}
        for number, length in enumerate(rows.lengths):
            self._of_length.setdefault(int(length), []).append(number)

    def batches(self, first: int = 0) -> list[Any]:
        """Returns this process's batches of the epoch as lists of packed rows; see the base class."""
        instead = self._trades()
        packs = [tuple(instead[list(pack)].tolist()) for pack in self._packs]
        return [[packs[number] for number in batch] for batch in super().batches(first)]

    def _trades(self) -> NDArray[np.int64]:
        """Which sample stands in the place of each one this epoch."""
        trades = np.arange(self._num_samples)
        if self.shuffle:
            draw = random.Random(f"trades {self.seed} {self.epoch}")
            for numbers in self._of_length.values():
                trades[numbers] = draw.sample(numbers, len(numbers))
        return trades


@dataclass(frozen=True)
class PackedCollator:
    """Makes a batch of packed rows: :class:`LossCollator`'s tensors, ``position_ids`` (B, T) int64 and ``num_samples``.

    Positions start at 0 with each sample, and behind a row's last sample once more, so that padding is a block of its
    own. A sample's first token has no label, because what stands in front of it is another sample's end.

    Args:
        pad_id: the id of padding.
        pad_to_multiple_of: round T up to a multiple of this.
    """

    pad_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[Sequence[EncodedExample]]) -> Batch:
        """Joins and pads one batch."""
        joined = [
            EncodedExample(
                input_ids=[token for example in row for token in example.input_ids],
                labels=[label for example in row for label in (IGNORED, *example.labels[1:])],
                prompt_ids=[],
                truncated=any(example.truncated for example in row),
            )
            for row in rows
        ]
        batch = LossCollator(self.pad_id, self.pad_to_multiple_of)(joined)
        positions = [[place for example in row for place in range(len(example.input_ids))] for row in rows]
        width = batch["input_ids"].shape[1]  # type: ignore[union-attr]
        padded = [[*row, *range(width - len(row))] for row in positions]
        return {**batch, "position_ids": pad(padded, 0, "right"), "num_samples": sum(map(len, rows))}
