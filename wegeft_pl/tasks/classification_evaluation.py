"""Scores of classified rows: loss, accuracy and its kin, or correlations where numbers are predicted.

Shapes: B rows, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import SumMetric

from wegeft_pl.losses import IGNORED
from wegeft_pl.metrics import ClassScores, RegressionScores
from wegeft_pl.tasks.evaluation import Evaluation, Prediction


@dataclass
class ClassPrediction(Prediction):
    """One classified row: ``output`` and ``reference`` are names of classes, or numbers where those are predicted.

    Args:
        label: the number of the true class; None where there is none, or numbers are predicted.
        predicted: the number of the likeliest class; None where numbers are predicted.
        probability: of the likeliest class; None where numbers are predicted.
    """

    label: int | None = None
    predicted: int | None = None
    probability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types; without what only answers in words have."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in ("extracted", "task")}


@dataclass(frozen=True)
class Classified:
    """A batch's result.

    Args:
        logits: (B, C) float32; C is 1 where numbers are predicted.
        labels: (B,) int64, or float32 where numbers are predicted; ignored rows have -100 or NaN.
        indices: B numbers of rows in their split; negative ones only fill up a batch.
        prompts: what was classified, in words, B of them.
    """

    logits: Tensor
    labels: Tensor
    indices: list[int]
    prompts: list[str]


class ClassificationEvaluation(Evaluation):
    """Scores of classes, or of predicted numbers.

    Args:
        classify: maps a batch to its result.
        loss: maps logits and labels to (loss sum (), number of rows ()); without label smoothing.
        num_classes: C; 1 where numbers are predicted.
        class_names: C names; None: their numbers.
    """

    def __init__(
        self,
        classify: Callable[[dict[str, Any]], Classified],
        loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        num_classes: int,
        class_names: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self._classify, self._loss = classify, loss
        self.num_classes = num_classes
        self._names = list(class_names) if class_names else [str(number) for number in range(num_classes)]
        self.loss_sum, self.num_rows = SumMetric(), SumMetric()
        self.scores = ClassScores(num_classes) if num_classes > 1 else RegressionScores()
        self._seen: set[int] = set()
        self.reset()

    def update(self, batch: dict[str, Any]) -> list[Prediction]:
        """Scores one batch; a row whose index was seen already, or is negative, is not counted."""
        result = self._classify(batch)
        fresh = []
        for row, index in enumerate(result.indices):
            if index >= 0 and index not in self._seen:
                self._seen.add(index)
                fresh.append(row)
        chosen = torch.tensor(fresh, dtype=torch.int64, device=result.logits.device)
        logits, labels = result.logits[chosen], result.labels[chosen]
        known = has_label(labels)
        loss_sum, rows = self._loss(logits, labels)
        self.loss_sum.update(loss_sum.detach())
        self.num_rows.update(rows)
        self.scores.update(logits[known] if self.num_classes > 1 else logits[known, 0], labels[known])
        return [row for row in self._predictions(result) if row.id >= 0]

    def compute(self) -> dict[str, float]:
        """Returns the scores of :class:`ClassScores` or :class:`RegressionScores`, and the mean loss."""
        # Every rank asks every metric, whether it had rows of its own or not: each is a collective.
        loss_sum, rows = float(self.loss_sum.compute()), float(self.num_rows.compute())
        scores = self.scores.compute()
        return {**scores, "loss": loss_sum / rows} if rows else {}

    def reset(self) -> None:
        """Forgets everything."""
        self._seen.clear()
        for total in (self.loss_sum, self.num_rows):
            total.reset()
            total.update(0.0)
        self.scores.reset()

    @property
    def confusion(self) -> Tensor | None:
        """(C, C) counts by true (rows) and predicted class, of the last :meth:`compute`; None for numbers."""
        return self.scores.confusion if isinstance(self.scores, ClassScores) else None

    def _predictions(self, result: Classified) -> list[Prediction]:
        rows = zip(result.indices, result.prompts, result.labels.tolist(), strict=True)
        known = has_label(result.labels).tolist()
        if self.num_classes == 1:
            values = result.logits[:, 0].tolist()
            return [
                ClassPrediction(index, prompt, f"{value:.4g}", f"{label:.4g}" if is_known else "", {}, {})
                for (index, prompt, label), value, is_known in zip(rows, values, known, strict=True)
            ]
        best = result.logits.float().softmax(dim=1).max(dim=1)
        found: list[Prediction] = []
        for (index, prompt, label), probability, predicted, is_known in zip(
            rows, best.values.tolist(), best.indices.tolist(), known, strict=True
        ):
            output, reference = self._names[predicted], self._names[label] if is_known else ""
            correct = {"accuracy": predicted == label} if is_known else {}
            found.append(
                ClassPrediction(
                    index, prompt, output, reference, {}, correct,
                    label=label if is_known else None, predicted=predicted, probability=probability,
                )
            )  # fmt: skip
        return found


def has_label(labels: Tensor) -> Tensor:
    """Which rows count, (B,) bool: those without the mark of rows to be ignored, -100 (NaN where labels are numbers).

    Example:
        >>> has_label(torch.tensor([3, -100])).tolist(), has_label(torch.tensor([0.5, float("nan")])).tolist()
        ([True, False], [True, False])
    """
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORED
