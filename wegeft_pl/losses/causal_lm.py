"""Next-token cross entropy on labelled positions only, returned as a sum and a count.

Shapes: B batch, T tokens, N labelled positions of the whole batch, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: The label of a position without loss (prompt, padding); the value that torch and transformers use.
IGNORED = -100


def labelled_positions(labels_BT: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Finds the positions whose NEXT token is labelled, so that logits are computed only there.

    Args:
        labels_BT: (B, T) int64, aligned with the input tokens (not shifted), -100 where there is no loss.

    Returns:
        ``mask_BT`` (B, T) bool, True at t where the label at t + 1 counts (never at the last t), and ``labels_N`` (N,)
        int64, those labels in the order in which ``hidden_BTD[mask_BT]`` lists the positions. A label at t = 0 has no
        position before it and never counts.

    Raises:
        ValueError: ``labels_BT`` is not two-dimensional.

    Example:
        >>> mask, labels = labelled_positions(torch.tensor([[-100, -100, 7, 2]]))
        >>> mask.tolist(), labels.tolist()
        ([[False, True, True, False]], [7, 2])
    """
    if labels_BT.ndim != 2:
        raise ValueError(f"labels must have shape (batch, tokens), got {tuple(labels_BT.shape)}")
    next_labels_BT = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)  # noqa: N806
    mask_BT = next_labels_BT != IGNORED  # noqa: N806
    return mask_BT, next_labels_BT[mask_BT]


def causal_lm_loss(logits_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Sums the cross entropy over labelled positions: sum over n of -log softmax(logits_n)[label_n].

    The caller divides once, by the count of the whole optimiser step (all micro-batches, all ranks): a mean of means
    would weight short answers more than long ones. The softmax is computed in float32 for half-precision logits and
    in the logits' own dtype above that.

    Args:
        logits_NV: (N, V) floating, the logits at the positions that :func:`labelled_positions` marks.
        labels_N: (N,) int64, the next tokens; entries of -100 are left out of both results.

    Returns:
        ``loss_sum`` () float32 (float64 for float64 logits), differentiable even when no token is labelled (then it
        is 0, never NaN), and ``num_tokens`` () int64, the number of labels that count.

    Raises:
        ValueError: the shapes do not fit together.

    Example:
        >>> loss_sum, num_tokens = causal_lm_loss(torch.zeros(3, 4), torch.tensor([0, 3, -100]))
        >>> round(loss_sum.item(), 4), num_tokens.item()  # 2 ln 4
        (2.7726, 2)
    """
    if logits_NV.ndim != 2 or labels_N.shape != logits_NV.shape[:1]:
        raise ValueError(
            f"logits and labels must have shapes (N, V) and (N,), got {tuple(logits_NV.shape)} and "
            f"{tuple(labels_N.shape)}; select the logits with labelled_positions(labels) first"
        )
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))  # noqa: N806
    loss_sum = F.cross_entropy(logits_NV, labels_N, ignore_index=IGNORED, reduction="sum")
    return loss_sum, (labels_N != IGNORED).sum()
