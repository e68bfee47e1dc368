"""Exact match of extracted answers, as a torchmetrics metric that adds up over batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from wegeft_pl.metrics.answers import numbers_equal


class ExactMatch(Metric):
    """The fraction of generated texts whose extracted answer equals the reference.

    Args:
        extract: takes a generated text, gives its answer or None; None counts as wrong.
        equal: compares an extracted answer with a reference; numbers by value unless told otherwise.

    Example:
        >>> from wegeft_pl.metrics import gsm8k_strict
        >>> metric = ExactMatch(gsm8k_strict)
        >>> metric.update(["#### 1,000", "I think 7"], ["1000", "7"])
        >>> metric.compute().item()
        0.5

    Source: METHOD.md section 8.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    num_correct: Tensor
    num_total: Tensor

    def __init__(
        self,
        extract: Callable[[str], str | None],
        equal: Callable[[str, str], bool] = numbers_equal,
    ) -> None:
        super().__init__()
        self.extract = extract
        self.equal = equal
        self.add_state("num_correct", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Sequence[str], references: Sequence[str]) -> None:
        """Counts one batch.

        Args:
            outputs: generated texts.
            references: the gold answers, already extracted, in the same order.

        Raises:
            ValueError: the two lengths differ, or a single string was given instead of a list.
        """
        if isinstance(outputs, str) or isinstance(references, str) or len(outputs) != len(references):
            raise ValueError(
                f"outputs and references must be lists of one length, got {outputs!r:.80} and {references!r:.80}"
            )
        for output, reference in zip(outputs, references, strict=True):
            answer = self.extract(output)
            self.num_correct += int(answer is not None and self.equal(answer, reference))
        self.num_total += len(outputs)

    def compute(self) -> Tensor:
        """Returns the fraction () float32 over all batches and ranks; NaN when nothing was counted."""
        return self.num_correct.float() / self.num_total
