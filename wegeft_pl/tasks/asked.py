"""What callbacks and ``plan`` ask of a task, with the answers of a task that says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from wegeft_pl.tasks.evaluation import Evaluation


@dataclass(frozen=True)
class BatchCount:
    """What one batch holds, for throughput.

    Args:
        samples: sequences or images.
        tokens: without padding, a number or a tensor () that is read only where it is reported (reading it waits for
            the device); None where a batch has no tokens.
        padded_tokens: with padding; None likewise.
    """

    samples: int
    tokens: int | Tensor | None = None
    padded_tokens: int | None = None


class AskedTask(LightningModule):
    """A module that counts its batches and may score and save itself; each method is a question to override."""

    def example_batch(self, samples: int, tokens: int) -> Any:
        """A batch of the given size, for counting memory without data; None where the task cannot make one up."""
        return None

    def training_loss(self, batch: Any) -> Tensor:
        """The loss () of a batch without a trainer around it, for counting memory.

        Raises:
            ValueError: this kind of task does not say how.
        """
        raise ValueError(f"{type(self).__name__} does not say how to compute a loss alone; override training_loss")

    def count_batch(self, batch: Any) -> BatchCount:
        """Counts a batch for throughput: the first tensor's first axis is the samples."""
        first = next(iter(batch.values())) if isinstance(batch, dict) else batch
        while isinstance(first, (list, tuple)):
            first = first[0]
        return BatchCount(samples=len(first))

    def new_evaluation(self) -> Evaluation | None:
        """A fresh scorer of batches, or None where the task has no score of its own."""
        return None

    def save_merged(self, directory: Path) -> None:
        """Writes the backbone, its adapter already merged, in the format of the library it came from.

        Raises:
            ValueError: this kind of task has no such format.
        """
        raise ValueError(f"{type(self).__name__} does not say how to save a merged backbone; override save_merged")

    def save_without_weights(self, directory: Path, dtype: torch.dtype) -> None:
        """Writes what :meth:`save_merged` writes beside the weights, for a sharded backbone's merge.

        Args:
            directory: that the weights are in, under the backbone's own names.
            dtype: of the weights.

        Raises:
            ValueError: this kind of task has no such format.
        """
        raise ValueError(
            f"{type(self).__name__} does not say how to save a merged backbone; override save_without_weights"
        )
