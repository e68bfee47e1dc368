"""Windows of a long token sequence: non-overlapping pieces, each behind its own BOS."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from wegeft_pl.data.order import BatchOrder
from wegeft_pl.data.text.tokenize import EncodedExample


class TokenWindows(Dataset[EncodedExample]):
    """Cuts tokens into non-overlapping windows; every token is a label.

    Args:
        tokens: the whole sequence.
        window: tokens per window, the leading ones included.
        leading: ids put in front of every window (BOS, or none).
        offset: most tokens that a pass may leave out at the start (the phase of :class:`WindowOrder`); 0: the cuts
            are fixed and the last window may be shorter.

    Raises:
        ValueError: a window has no room for two tokens, or the sequence is too short for one.
    """

    def __init__(self, tokens: Sequence[int], window: int, leading: Sequence[int] = (), offset: int = 0) -> None:
        self.stride = window - len(leading)
        if self.stride < 1 or window < 2:
            raise ValueError(
                f"window must hold at least 2 tokens and more than its {len(leading)} leading, got {window}"
            )
        self.tokens = tokens
        self.leading = list(leading)
        # With moving cuts only windows that are whole at every phase; otherwise the shorter last one too, unless it is
        # a lone token that nothing stands in front of.
        whole, rest = divmod(len(tokens) - offset, self.stride)
        self.num_windows = whole + (not offset and rest > (0 if leading else 1))
        if self.num_windows < 1:
            raise ValueError(f"{len(tokens)} tokens are too few for one window of {window}; use a smaller window")

    def __len__(self) -> int:
        return self.num_windows

    @property
    def num_labels(self) -> int:
        """Number of tokens that the loss counts in one pass."""
        covered = min(len(self.tokens), self.num_windows * self.stride)
        return covered if self.leading else covered - self.num_windows

    def __getitem__(self, start: int) -> EncodedExample:
        """Returns the window that begins at token ``start`` (a position in the sequence, not a window's number)."""
        ids = self.leading + list(self.tokens[start : start + self.stride])
        return EncodedExample(input_ids=ids, labels=ids, prompt_ids=[], truncated=False)


class WindowOrder(BatchOrder):
    """Gives the start positions of windows instead of their numbers.

    Args:
        windows: the dataset.
        random_phase: whether each epoch starts at another token of the first window, so that the cuts move.
        order: the arguments of :class:`BatchOrder` after the number of rows.
    """

    def __init__(self, windows: TokenWindows, random_phase: bool, *order: Any) -> None:
        super().__init__(len(windows), *order)
        self.stride = windows.stride
        self.random_phase = random_phase

    def batches(self, first: int = 0) -> list[list[int]]:
        """Returns this process's batches of the epoch as lists of start positions, in tokens; see the base class."""
        phase = 0
        if self.random_phase:  # the same on every process: it depends on the seed and the epoch only
            phase = random.Random(f"phase {self.seed} {self.epoch}").randrange(self.stride)
        return [[phase + number * self.stride for number in batch] for batch in super().batches(first)]
