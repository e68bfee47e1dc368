"""Scores of classification and regression, as torchmetrics that add up over batches and ranks.

Shapes: B rows, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchmetrics import Metric, SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef
from torchmetrics.utilities import dim_zero_cat

#: From this many classes on, the share of rows whose class is among the five likeliest says something.
CLASSES_FOR_TOP_5 = 6


class ClassScores(nn.Module):
    """Accuracy, by class and over all, the confusion matrix, and what small sets of classes are scored by.

    Args:
        num_classes: C, at least 2.

    Raises:
        ValueError: there are fewer than two classes.

    Example:
        >>> scores = ClassScores(3)
        >>> scores.update(torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2]))
        >>> {name: round(value, 3) for name, value in scores.compute().items()}
        {'accuracy': 0.75, 'class_accuracy': 0.833}
        >>> scores.confusion.tolist()
        [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}; a single number is a regression")
        self.num_classes = num_classes
        self._confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self._in_top_5 = SumMetric()
        #: (C, C) int64 rows by true class, columns by predicted class, over all ranks; of the last :meth:`compute`.
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.reset()

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Counts rows.

        Args:
            logits: (B, C) of any scale; the largest is the prediction.
            labels: (B,) int64 in 0..C-1.
        """
        predicted = logits.argmax(dim=1)
        self._confusion.update(predicted, labels)
        if self.num_classes < CLASSES_FOR_TOP_5:
            self._in_top_5.update(0)  # asked for all the same
        else:
            self._in_top_5.update((logits.topk(5, dim=1).indices == labels[:, None]).any(dim=1).sum())

    def compute(self) -> dict[str, float]:
        """The scores over all rows and ranks; every rank calls it.

        Returns:
            ``accuracy``, ``class_accuracy`` (the mean of the classes' own), ``top5_accuracy`` where there are more than
            five classes, ``f1`` (of class 1) and ``matthews`` where there are two; empty where nothing was counted.
        """
        # Every rank asks every metric, whether it had rows of its own or not: each is a collective.
        self.confusion = self._confusion.compute().cpu()
        in_top_5 = float(self._in_top_5.compute())
        total = int(self.confusion.sum())
        if not total:
            return {}
        by_class = per_class_accuracy(self.confusion)
        scores = {
            "accuracy": int(self.confusion.diagonal().sum()) / total,
            "class_accuracy": float(by_class[~by_class.isnan()].mean()),
        }
        if self.num_classes >= CLASSES_FOR_TOP_5:
            scores["top5_accuracy"] = in_top_5 / total
        return scores | (pair_scores(self.confusion) if self.num_classes == 2 else {})

    def reset(self) -> None:
        """Forgets everything."""
        for metric in (self._confusion, self._in_top_5):
            metric.reset()
        # An update with nothing, so that a rank without rows may compute.
        self.update(torch.zeros(0, self.num_classes), torch.zeros(0, dtype=torch.int64))


class RegressionScores(nn.Module):
    """Pearson's and Spearman's correlation of predicted and true numbers.

    Example:
        >>> scores = RegressionScores()
        >>> scores.update(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 3.0, 5.0]))
        >>> {name: round(value, 3) for name, value in scores.compute().items()}
        {'pearson': 1.0, 'spearman': 1.0}
    """

    def __init__(self) -> None:
        super().__init__()
        self._pairs = _Pairs()
        self.reset()

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Keeps rows.

        Args:
            predicted: (B,).
            labels: (B,).
        """
        self._pairs.update(predicted, labels)

    def compute(self) -> dict[str, float]:
        """``pearson`` and ``spearman`` over all rows and ranks; every rank calls it.

        Returns:
            The two; without those that are not defined: of fewer than two rows, or of equal numbers.
        """
        pairs = self._pairs.compute()
        predicted, labels = pairs[:, 0].double(), pairs[:, 1].double()
        if len(pairs) < 2 or not float(predicted.std()) or not float(labels.std()):
            return {}
        found = {"pearson": pearson_corrcoef(predicted, labels), "spearman": spearman_corrcoef(predicted, labels)}
        return {name: float(score) for name, score in found.items() if not math.isnan(float(score))}

    def reset(self) -> None:
        """Forgets everything."""
        self._pairs.reset()
        self.update(torch.zeros(0), torch.zeros(0))


class _Pairs(Metric):
    """Keeps predicted and true numbers as pairs, so that ranks cannot gather the two in different orders."""

    full_state_update = False
    pairs: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pairs", default=[], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Keeps rows, (B,) each; none is fine, and what makes a rank without rows take part."""
        self.pairs.append(torch.stack([predicted.float(), labels.float()], dim=1))

    def compute(self) -> Tensor:
        """All rows (N, 2)."""
        return dim_zero_cat(self.pairs)


def per_class_accuracy(confusion: Tensor) -> Tensor:
    """The share of each class's rows that were predicted to be of it.

    Args:
        confusion: (C, C) counts, rows by true class.

    Returns:
        (C,) float64; NaN for a class without rows.

    Example:
        >>> per_class_accuracy(torch.tensor([[3, 1], [0, 0]])).tolist()
        [0.75, nan]
    """
    return confusion.diagonal().double() / confusion.sum(dim=1).double()


def pair_scores(confusion: Tensor) -> dict[str, float]:
    """What two classes are scored by in GLUE.

    Args:
        confusion: (2, 2) counts, rows by true class.

    Returns:
        ``f1`` of class 1 and ``matthews``, Matthews' correlation; 0 where they are not defined, as in scikit-learn.

    Example:
        >>> {name: round(score, 3) for name, score in pair_scores(torch.tensor([[5, 1], [2, 4]])).items()}
        {'f1': 0.727, 'matthews': 0.507}
    """
    (true_negatives, false_positives), (false_negatives, true_positives) = confusion.tolist()
    positives, found = true_positives + false_negatives, true_positives + false_positives
    negatives, rejected = true_negatives + false_positives, true_negatives + false_negatives
    product = positives * found * negatives * rejected
    covariance = true_positives * true_negatives - false_positives * false_negatives
    return {
        "f1": 2 * true_positives / (positives + found) if positives + found else 0.0,
        "matthews": covariance / math.sqrt(product) if product else 0.0,
    }
