"""GIFT's first version: a hyper-Transformer from a layer's weight to its change.

Shapes: L layers, O out features (tokens), I in features (token width), d reduced width (the rank), M clusters.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from wegeft_pl.generators.attention import SelfAttention
from wegeft_pl.generators.blocks import Block, Norm
from wegeft_pl.generators.checks import check_choice, check_count, check_switch
from wegeft_pl.generators.hidden import HiddenMapGenerator
from wegeft_pl.generators.paca import Assignment, PaCa

Attention = Literal["paca", "full", "none"]


class GIFTGenerator(HiddenMapGenerator):
    """Generates delta W = H(W phi + P) psi with H blocks of attention and MLP and P a learnable encoding of the rows.

    GIFT stacks the weights of L layers into a batch (L, O, I) of O tokens. Layers do not interact, so that calling
    it for one layer at a time, as an adapter does, computes the same. phi is the reduction I -> d, psi the recovery
    d -> I, which starts at zero; the reduction has no bias because P holds one. Use it with ``alpha: null`` (a scale
    of 1) and ``sharing: all`` (or ``type``).

    2 d I + O d + depth (8 d^2 + 7 d + (d + 1) M) parameters with the default attention and MLP ratio; without the M
    terms for ``full`` attention; I more for the bias. All sites of a group must have O rows.

    Args:
        width: I.
        rank: d; 48, 96 or 192 in the paper.
        zero: ``"psi"``.
        side: ``"input"``.
        rows: O.
        attention: ``"paca"``, ``"full"`` (among all O rows, quadratic in O) or ``"none"``.
        clusters: M.
        assignment: PaCa's, ``"sigmoid"`` (over O) or ``"softmax"`` over the tokens.
        norm: ``"l2"`` (over the channels, nothing learned), ``"layer"`` or ``"none"``.
        depth: number of blocks.
        heads: of the attention; divides d.
        mlp_ratio: hidden channels for each channel.
        drop_path: probability of leaving a branch out in training.
        bias: adds a learnable row (I,) to every row of the change, which makes its rank d + 1.

    Raises:
        ValueError: an option has a value outside its range.

    Source: METHOD.md section 4, GIFT v1.
    """

    def __init__(
        self,
        width: int,
        rank: int,
        zero: str = "psi",
        side: str = "input",
        *,
        rows: int,
        attention: Attention = "paca",
        clusters: int = 96,
        assignment: Assignment = "sigmoid",
        norm: Norm = "l2",
        depth: int = 1,
        heads: int = 1,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(width, rank, zero, side)
        check_choice("attention", attention, get_args(Attention))
        check_count("depth", depth)
        check_switch("bias", bias)
        self.positions = nn.Parameter(torch.empty(rows, rank, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(width, dtype=torch.float32)) if bias else None

        def mixing() -> nn.Module | None:
            if attention == "paca":
                return PaCa(rank, clusters, heads, assignment)
            return SelfAttention(rank, heads) if attention == "full" else None

        self.blocks = nn.Sequential(*(Block(mixing(), rank, norm, mlp_ratio, drop_path) for _ in range(depth)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zeroes the recovery and its bias, and draws the rest; the positions as vision transformers do."""
        super().reset_parameters()
        nn.init.trunc_normal_(self.positions, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def hidden(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """The blocks, one after the other, on tokens (O, d) that know their place."""
        return self.blocks(x_OR + self.positions)

    def generate(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
        """The factors ``left`` (O, d) and ``right`` (d, I), or (O, d + 1) and (d + 1, I) with a bias."""
        left_OR, right_RI = super().generate(weight_OI)  # noqa: N806
        if self.bias is None:
            return left_OR, right_RI
        return torch.cat([left_OR, left_OR.new_ones(len(left_OR), 1)], dim=1), torch.cat([right_RI, self.bias[None]])
