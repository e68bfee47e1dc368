"""Losses of classified rows, as a sum and a number of rows, so that steps and evaluations weight rows alike.

Shapes: B rows, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wegeft_pl.losses.causal_lm import IGNORED


def classification_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross entropy; the square of the difference where numbers are predicted.

    Args:
        logits: (B, C), C = 1 where numbers are predicted.
        targets: (B,) int64 classes, of which -100 is not counted; (B, C) shares of classes, of which a row of zeros is
            not counted; or (B,) floats to predict, of which NaN is not counted.
        label_smoothing: share of the target that is spread over all classes, for int64 classes.

    Returns:
        Sum of the losses () in float32, and number of rows () that were counted.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
        >>> [round(float(part), 3) for part in classification_loss(logits, torch.tensor([1, -100]))]
        [0.693, 1.0]
        >>> numbers = torch.tensor([3.0, float("nan")])
        >>> [float(part) for part in classification_loss(torch.tensor([[1.0], [7.0]]), numbers)]
        [4.0, 1.0]
    """
    logits = logits.float()
    if targets.ndim == 2:
        return F.cross_entropy(logits, targets.float(), reduction="sum"), (targets.sum(dim=1) > 0).sum()
    if targets.is_floating_point():
        known = ~targets.isnan()
        # A product with zero would keep the NaN.
        difference = torch.where(known, logits[:, 0] - targets.float().nan_to_num(), 0.0)
        return difference.square().sum(), known.sum()
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
    return loss, (targets != IGNORED).sum()
