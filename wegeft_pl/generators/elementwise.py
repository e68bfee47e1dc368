"""Generators with one nonlinear function between the two linear maps.

Shapes: O out features, I in features, R rank.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wegeft_pl.generators.hidden import HiddenMapGenerator


class SigmoidGenerator(HiddenMapGenerator):
    """Generates delta W = sigmoid(W phi) psi with 2 R I parameters.

    Args:
        width: I.
        rank: R.
        zero: ``"psi"``; sigmoid(0) is one half, so that phi = 0 would change the layer.
        side: ``"input"``.

    Example:
        >>> import torch
        >>> left_OR, right_RI = SigmoidGenerator(width=8, rank=2)(torch.zeros(5, 8))
        >>> left_OR[0].tolist()
        [0.5, 0.5]

    Source: METHOD.md section 4.
    """

    def __init__(self, width: int, rank: int, zero: str = "psi", side: str = "input") -> None:
        super().__init__(width, rank, zero, side)
        self.reset_parameters()

    def hidden(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """sigmoid(x), elementwise."""
        return x_OR.sigmoid()


class GELUGenerator(HiddenMapGenerator):
    """Generates delta W = GELU(W phi) psi with 2 R I parameters.

    Args:
        width: I.
        rank: R.
        zero: ``"phi"`` or ``"psi"``: GELU(0) = 0 with slope one half, so that either will do.
        side: ``"input"``.

    Source: METHOD.md section 4.
    """

    zeros = ("phi", "psi")

    def __init__(self, width: int, rank: int, zero: str = "psi", side: str = "input") -> None:
        super().__init__(width, rank, zero, side)
        self.reset_parameters()

    def hidden(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """GELU(x), the exact one, elementwise."""
        return F.gelu(x_OR)
