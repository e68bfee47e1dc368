"""How far one generator can move a layer: the largest singular value of the change's own matrix.

Shapes: D edited width (I or O), R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sigma_max(phi_DR: Tensor, psi_RD: Tensor, scale: float) -> float:  # noqa: N803
    """Computes the largest singular value of s phi psi from R x R matrices only.

    W' - W = s W phi psi, so ||W' - W|| <= sigma_max ||W|| for every layer of a group at once, in the spectral and in
    the Frobenius norm: one number bounds the relative change of all of them. On the output side the same holds for
    s phi psi W. With phi = Q R_1 and psi^T = P R_2 the value is that of s R_1 R_2^T, because Q and P have orthonormal
    columns.

    Args:
        phi_DR: (D, R), any floating dtype and device.
        psi_RD: (R, D).
        scale: s.

    Returns:
        sigma_max(s phi psi), computed in float64.

    Raises:
        ValueError: the shapes do not fit together.

    Example:
        >>> sigma_max(torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0, 0.0]]), 2.0)
        10.0

    Source: METHOD.md section 1.
    """
    if phi_DR.ndim != 2 or phi_DR.shape != psi_RD.T.shape:
        raise ValueError(f"phi (D, R) and psi (R, D) do not fit: {tuple(phi_DR.shape)} and {tuple(psi_RD.shape)}")
    with torch.no_grad():
        left = torch.linalg.qr(phi_DR.double(), mode="r").R
        right = torch.linalg.qr(psi_RD.T.double(), mode="r").R
        return abs(scale) * float(torch.linalg.svdvals(left @ right.T)[0])
