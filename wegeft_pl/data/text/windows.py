"""Windows of a long token sequence: non-overlapping pieces, each behind its own BOS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Dataset, DistributedSampler

from wegeft_pl.data.text.tokenize import EncodedExample


class TokenWindows(Dataset[EncodedExample]):
    """Cuts tokens into non-overlapping windows; every token is a label.

    Args:
        tokens: the whole sequence.
        window: tokens per window, the leading ones included.
        leading: ids put in front of every window (BOS, or none).
        offset: most tokens that a pass may leave out at the start (``window_phase``); 0 keeps the cuts fixed and the
            last, shorter window.

    Raises:
        ValueError: a window has no room for two tokens, or the sequence is too short for one.
    """

    def __init__(self, tokens: Sequence[int], window: int, leading: Sequence[int] = (), offset: int = 0) -> None:
        self.stride = window - len(leading)
        if self.stride < 1 or window < 2:
            raise ValueError(f"window must hold at least 2 tokens and more than its {len(leading)} leading, got {window}")
        self.tokens = tokens
        self.leading = list(leading)
        # A lone last token has no label to predict unless something stands in front of it.
        usable = len(tokens) - offset - (0 if leading else 1)
        self.num_windows = usable // self.stride if offset else -(-usable // self.stride)
        if self.num_windows < 1:
            raise ValueError(f"{len(tokens)} tokens are too few for one window of {window}; use a smaller window")

    def __len__(self) -> int:
        return self.num_windows

    def __getitem__(self, start: int) -> EncodedExample:
        """Returns the window that begins at token ``start`` (a position in the sequence, not a window's number)."""
        ids = self.leading + list(self.tokens[start : start + self.stride])
        return EncodedExample(input_ids=ids, labels=ids, prompt_ids=[], truncated=False)


class WindowSampler(DistributedSampler):
    """Gives the start positions of this process's windows.

    Args:
        windows: the dataset.
        num_replicas: number of processes.
        rank: this process.
        shuffle: whether the order is shuffled, differently each epoch.
        seed: seed of the order and of the phase.
        random_phase: whether each epoch starts at another token within the first window, so that the cuts move.
    """

    def __init__(
        self, windows: TokenWindows, num_replicas: int, rank: int, shuffle: bool, seed: int, random_phase: bool = False
    ) -> None:
        super().__init__(windows, num_replicas, rank, shuffle=shuffle, seed=seed)
        self.stride = windows.stride
        self.random_phase = random_phase

    def __iter__(self) -> Iterator[int]:
        phase = 0
        if self.random_phase:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            phase = int(torch.randint(self.stride, (), generator=generator))
        return (phase + number * self.stride for number in super().__iter__())
