"""What became of the rows of each split: counted, and told of where something was lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wegeft_pl.data.sources import Split
from wegeft_pl.data.tell import tell
from wegeft_pl.data.text.token_store import facts_of
from wegeft_pl.data.text.tokenize import EncodedExample

NAMES = ("rows", "truncated", "dropped", "unlabelled", "tokens", "labelled_tokens")


class SplitCounts:
    """Counts rows, tokens and losses by split.

    Args:
        max_length: where sequences are cut, for the messages.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.counts: dict[str, dict[str, int]] = {name: {} for name in NAMES}

    def count(self, split: Split, encoded: Sequence[EncodedExample]) -> NDArray[np.int64]:
        """Counts a split; rows without a label are dropped from training, and stay in validation and test.

        Args:
            split: which one.
            encoded: its examples.

        Returns:
            The numbers of those that have a label.

        Raises:
            ValueError: nothing is left because everything was cut.
        """
        facts = facts_of(encoded)
        labelled = np.flatnonzero(facts.num_labels > 0)
        if not len(labelled) and (split == "train" or facts.truncated.any()):
            raise ValueError(
                f"{split}: none of {len(encoded)} rows has a label left at data.max_length={self.max_length}; "
                f"the shortest prompt has {facts.prompt_lengths.min()} tokens: raise data.max_length above that"
            )
        served = labelled if split == "train" else np.arange(len(encoded))
        without = len(encoded) - len(labelled)
        values = (
            len(served),
            facts.truncated.sum(),
            without if split == "train" else 0,
            0 if split == "train" else without,
            facts.lengths[served].sum(),
            facts.num_labels[served].sum(),
        )
        for name, value in zip(NAMES, values, strict=True):
            self.counts[name][split] = int(value)
        self._say(split, len(encoded))
        return labelled

    def _say(self, split: Split, rows: int) -> None:
        cut, dropped, unlabelled = (self.counts[name][split] for name in ("truncated", "dropped", "unlabelled"))
        parts = (
            [f"{cut:,} of {rows:,} rows cut at data.max_length={self.max_length} (their EOS is lost)"] if cut else []
        )
        parts += [f"{dropped:,} dropped without a label"] if dropped else []
        parts += [f"{unlabelled:,} without a label"] if unlabelled else []
        if parts:
            tell(f"{split}: {', '.join(parts)}")
