"""The generator with a residual MLP between the two linear maps.

Shapes: O out features (tokens), I in features, R rank (channels).
"""

from __future__ import annotations

from torch import Tensor, nn

from wegeft_pl.generators.blocks import Block, Norm
from wegeft_pl.generators.checks import check_count
from wegeft_pl.generators.hidden import HiddenMapGenerator


class MLPGenerator(HiddenMapGenerator):
    """Generates delta W = H(W phi) psi with H: x + MLP(norm(x)), for every row by itself.

    2 R I + depth (2 q R^2 + (q + 1) R) parameters with q the MLP ratio; norm ``layer`` adds 2 R for each block.

    Args:
        width: I.
        rank: R.
        zero: ``"psi"``.
        side: ``"input"``.
        norm: ``"l2"`` (over the channels, nothing learned), ``"layer"`` or ``"none"``.
        depth: number of residual blocks.
        mlp_ratio: hidden channels for each channel.
        drop_path: probability of leaving a block out in training.

    Raises:
        ValueError: an option has a value outside its range.

    Source: METHOD.md section 4.
    """

    def __init__(
        self,
        width: int,
        rank: int,
        zero: str = "psi",
        side: str = "input",
        *,
        norm: Norm = "l2",
        depth: int = 1,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(width, rank, zero, side)
        check_count("depth", depth)
        self.blocks = nn.Sequential(*(Block(None, rank, norm, mlp_ratio, drop_path) for _ in range(depth)))
        self.reset_parameters()

    def hidden(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """The blocks, one after the other."""
        return self.blocks(x_OR)
