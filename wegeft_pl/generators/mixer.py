"""The generator with an MLP-mixer between the two linear maps.

Shapes: O out features (tokens), I in features, R rank (channels), H hidden tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wegeft_pl.generators.blocks import Block, Norm
from wegeft_pl.generators.checks import check_count
from wegeft_pl.generators.hidden import HiddenMapGenerator


class TokenMLP(nn.Module):
    """O -> H -> O with GELU between, for every channel by itself: 2 H O + H + O parameters.

    Args:
        tokens: O.
        hidden: H.
    """

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(tokens, hidden, dtype=torch.float32)
        self.up = nn.Linear(hidden, tokens, dtype=torch.float32)

    def forward(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """Maps tokens (O, R) to tokens (O, R)."""
        return self.up(F.gelu(self.down(x_OR.T))).T


class MixerGenerator(HiddenMapGenerator):
    """Generates delta W = H(W phi) psi with H an MLP over the tokens, then one over the channels, both residual.

    2 R I + depth (2 H O + H + O + 2 q R^2 + (q + 1) R) parameters with q the MLP ratio; norm ``layer`` adds 4 R for
    each block. The token MLP is built for O rows, so that all sites of a group must have them.

    Args:
        width: I.
        rank: R.
        zero: ``"psi"``.
        side: ``"input"``.
        rows: O.
        norm: ``"l2"`` (over the channels, nothing learned), ``"layer"`` or ``"none"``.
        depth: number of blocks.
        hidden_tokens: H.
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
        rows: int,
        norm: Norm = "l2",
        depth: int = 1,
        hidden_tokens: int = 64,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(width, rank, zero, side)
        check_count("depth", depth)
        check_count("hidden_tokens", hidden_tokens)
        self.blocks = nn.Sequential(
            *(Block(TokenMLP(rows, hidden_tokens), rank, norm, mlp_ratio, drop_path) for _ in range(depth))
        )
        self.reset_parameters()

    def hidden(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """The blocks, one after the other."""
        return self.blocks(x_OR)
