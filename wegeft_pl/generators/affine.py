"""The linear generator whose two maps have biases, which no edit of a layer's input can express.

Shapes: O out features, I in features, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wegeft_pl.generators.hidden import HiddenMapGenerator


class AffineGenerator(HiddenMapGenerator):
    """Generates delta W = (W phi + 1 b^T) psi + 1 c^T: two affine maps of every row of W, a change of rank R + 1.

    2 R I + R + I parameters: phi, psi, ``phi_bias`` b (R,) and ``psi_bias`` c (I,). The biases add one and the same
    row, b^T psi + c^T, to every row of W.

    Args:
        width: I.
        rank: R.
        zero: ``"psi"``; c starts at zero with it.
        side: ``"input"``.

    Example:
        >>> left_OR, right_RI = AffineGenerator(width=8, rank=2)(torch.ones(5, 8))
        >>> left_OR.shape, right_RI.shape
        (torch.Size([5, 3]), torch.Size([3, 8]))

    Source: METHOD.md section 1.
    """

    def __init__(self, width: int, rank: int, zero: str = "psi", side: str = "input") -> None:
        super().__init__(width, rank, zero, side)
        self.phi_bias = nn.Parameter(torch.empty(rank, dtype=torch.float32))
        self.psi_bias = nn.Parameter(torch.empty(width, dtype=torch.float32))
        self.reset_parameters()

    def hidden(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """x + b."""
        return x_OR + self.phi_bias

    def generate(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
        """The factors ``left`` (O, R + 1) = [W phi + b, 1] and ``right`` (R + 1, I) = [psi; c]."""
        left_OR, right_RI = super().generate(weight_OI)  # noqa: N806
        ones = left_OR.new_ones(len(left_OR), 1)
        return torch.cat([left_OR, ones], dim=1), torch.cat([right_RI, self.psi_bias[None]])

    def reset_parameters(self) -> None:
        """Draws phi, and zeroes psi and both biases."""
        super().reset_parameters()
        nn.init.zeros_(self.phi_bias)
        nn.init.zeros_(self.psi_bias)
