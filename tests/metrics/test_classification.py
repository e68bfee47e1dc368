"""Scores against scikit-learn's and NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wegeft_pl.metrics import ClassScores, RegressionScores, per_class_accuracy

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_scores_of_classes(classes: int) -> None:
    logits, labels = torch.randn(60, classes), torch.randint(classes, (60,))
    labels[labels == classes - 1] = 0  # a class without rows
    labels[0] = classes - 1 if classes == 2 else 0
    scores = ClassScores(classes)
    for start in (0, 7, 40):
        stop = {0: 7, 7: 40, 40: 60}[start]
        scores.update(logits[start:stop], labels[start:stop])
    found, predicted = scores.compute(), logits.argmax(1)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    matrix = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(classes))
    assert scores.confusion.tolist() == matrix.tolist()
    present = [kind for kind in range(classes) if (labels == kind).any()]
    recalls = sklearn_metrics.recall_score(labels, predicted, labels=present, average=None)
    assert found["class_accuracy"] == pytest.approx(recalls.mean())
    assert per_class_accuracy(scores.confusion)[present].tolist() == pytest.approx(recalls.tolist())
    assert ("top5_accuracy" in found) == (classes > 5)
    if classes > 5:
        top = sklearn_metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
        assert found["top5_accuracy"] == pytest.approx(top)
    assert ("f1" in found) == (classes == 2)
    if classes == 2:
        assert found["f1"] == pytest.approx(sklearn_metrics.f1_score(labels, predicted))
        assert found["matthews"] == pytest.approx(sklearn_metrics.matthews_corrcoef(labels, predicted))
    scores.reset()
    assert scores.compute() == {}


def test_two_classes_of_which_one_is_never_predicted() -> None:
    scores = ClassScores(2)
    scores.update(torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 0, 1, 0]))
    assert scores.compute() == {"accuracy": 0.75, "class_accuracy": 0.5, "f1": 0.0, "matthews": 0.0}


def test_scores_of_numbers() -> None:
    predicted, labels = torch.randn(30), torch.randn(30)
    scores = RegressionScores()
    scores.update(predicted[:10], labels[:10])
    scores.update(predicted[10:], labels[10:])
    found = scores.compute()
    assert found["pearson"] == pytest.approx(np.corrcoef(predicted, labels)[0, 1], abs=1e-6)
    ranks = [np.argsort(np.argsort(values.numpy())) for values in (predicted, labels)]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)
    scores.reset()
    scores.update(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))
    assert scores.compute() == {}  # no correlation with what never changes


def test_one_class_is_none() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1; a single number is a regression"):
        ClassScores(1)
