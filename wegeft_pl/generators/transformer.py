"""The generator with a transformer between the two linear maps.

Shapes: O out features (tokens), I in features, R rank (channels).
"""

from __future__ import annotations

from torch import Tensor, nn

from wegeft_pl.generators.attention import SelfAttention
from wegeft_pl.generators.blocks import Block, Norm
from wegeft_pl.generators.checks import check_count
from wegeft_pl.generators.hidden import HiddenMapGenerator


class TransformerGenerator(HiddenMapGenerator):
    """Generates delta W = H(W phi) psi with H a pre-norm transformer over all O rows; its time grows with O^2.

    2 R I + depth ((4 + 2 q) R^2 + (5 + q) R) parameters with q the MLP ratio; norm ``layer`` adds 4 R for each block.

    Args:
        width: I.
        rank: R.
        zero: ``"psi"``.
        side: ``"input"``.
        norm: ``"l2"`` (over the channels, nothing learned), ``"layer"`` or ``"none"``.
        depth: number of blocks.
        heads: of the attention; divides R.
        mlp_ratio: hidden channels for each channel.
        drop_path: probability of leaving a branch out in training.

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
        heads: int = 1,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(width, rank, zero, side)
        check_count("depth", depth)
        self.blocks = nn.Sequential(
            *(Block(SelfAttention(rank, heads), rank, norm, mlp_ratio, drop_path) for _ in range(depth))
        )
        self.reset_parameters()

    def hidden(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """The blocks, one after the other."""
        return self.blocks(x_OR)
