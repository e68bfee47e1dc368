"""The paper's default generator: two linear maps and nothing between them.

Shapes: O out features, I in features, R rank, D the edited side's width (I or O).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wegeft_pl.generators.base import Generator


class LinearGenerator(Generator):
    """Generates W' = W + s (W phi) psi, or W' = W + s phi (psi W) on the output side.

    Parameters are float32: ``phi`` (D, R) and ``psi`` (R, D), 2 R D in all, no biases.

    Args:
        width: D, features of the edited side.
        rank: R.
        zero: the factor that starts at zero; the other one is Kaiming-uniform with a = sqrt(5) and fan-in D.
        side: ``"input"`` or ``"output"``.

    Example:
        >>> generator = LinearGenerator(width=8, rank=2)
        >>> left_OR, right_RI = generator(torch.ones(5, 8))
        >>> left_OR.shape, right_RI.shape
        (torch.Size([5, 2]), torch.Size([2, 8]))

    Source: METHOD.md sections 1 and 3.
    """

    can_edit = True

    def __init__(self, width: int, rank: int, zero: str = "phi", side: str = "input") -> None:
        super().__init__(width, rank, zero, side)
        self.phi = nn.Parameter(torch.empty(width, rank, dtype=torch.float32))
        self.psi = nn.Parameter(torch.empty(rank, width, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws one factor Kaiming-uniform and zeroes the other."""
        for name, factor in (("phi", self.phi), ("psi", self.psi)):
            if name == self.zero:
                nn.init.zeros_(factor)
            else:
                # Whichever factor is drawn is the layer that meets the D features first, so its fan-in is D.
                nn.init.kaiming_uniform_(factor.T if name == "phi" else factor, a=math.sqrt(5))

    def forward(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
        """Generates ``left`` (O, R) and ``right`` (R, I); see :class:`Generator`.

        The small factor is cast to the weight's dtype, never the weight to float32.
        """
        phi = self.phi.to(weight_OI.dtype)
        psi = self.psi.to(weight_OI.dtype)
        if self.side == "input":
            return weight_OI @ phi, psi
        return phi, psi @ weight_OI
