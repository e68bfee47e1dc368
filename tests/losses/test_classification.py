"""The loss against formulas in float64."""

from __future__ import annotations

import pytest
import torch

from wegeft_pl.losses import classification_loss


def test_cross_entropy_with_smoothing_and_ignored_rows() -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, 3, -100, 1, 2])
    loss, rows = classification_loss(logits, labels, 0.2)
    logs = logits.double().log_softmax(1)
    kept = [row for row in range(5) if row != 2]
    expected = sum(-0.8 * logs[row, labels[row]] - 0.2 * logs[row].mean() for row in kept)
    assert (loss.item(), rows.item()) == (pytest.approx(float(expected), rel=1e-5), 4)


def test_soft_targets_and_a_row_of_zeros() -> None:
    logits, targets = torch.randn(3, 4), torch.rand(3, 4)
    targets[1] = 0
    loss, rows = classification_loss(logits, targets)
    expected = -(targets.double() * logits.double().log_softmax(1)).sum()
    assert (loss.item(), rows.item()) == (pytest.approx(float(expected), rel=1e-5), 2)


def test_numbers_and_their_gradient_beside_nan() -> None:
    logits = torch.tensor([[1.0], [5.0]], requires_grad=True)
    loss, rows = classification_loss(logits, torch.tensor([float("nan"), 2.0]))
    loss.backward()
    assert (loss.item(), rows.item()) == (9.0, 1)
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == [0.0, 6.0]
