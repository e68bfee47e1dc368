"""The generator with patch-to-cluster attention (PaCa) between the two linear maps.

Shapes: O out features (tokens), I in features, R rank (channels), M clusters.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wegeft_pl.generators.attention import attend, check_heads
from wegeft_pl.generators.blocks import Block, Norm
from wegeft_pl.generators.checks import check_choice, check_count
from wegeft_pl.generators.hidden import HiddenMapGenerator

Assignment = Literal["sigmoid", "softmax"]


class PaCa(nn.Module):
    """Attention from O tokens to M clusters of them, in O(O M) time and memory.

    C = sigmoid(x A + a)^T / O, or softmax over the tokens of (x A)^T; Z = l2norm(C x); out(softmax(Q(x) K(Z)^T) V(Z)).
    4 R^2 + 4 R + M R parameters, and M more for the bias a with sigmoid; under a softmax over tokens it would cancel.

    Args:
        channels: R.
        clusters: M.
        heads: divides R.
        assignment: ``"sigmoid"`` or ``"softmax"``.

    Raises:
        ValueError: an argument has a value outside its range.

    Source: METHOD.md section 4.
    """

    def __init__(self, channels: int, clusters: int, heads: int, assignment: str) -> None:
        super().__init__()
        check_count("clusters", clusters)
        check_heads(heads, channels)
        check_choice("assignment", assignment, get_args(Assignment))
        self.heads = heads
        self.assignment = assignment
        self.cluster = nn.Linear(channels, clusters, bias=assignment == "sigmoid", dtype=torch.float32)
        self.query = nn.Linear(channels, channels, dtype=torch.float32)
        self.key = nn.Linear(channels, channels, dtype=torch.float32)
        self.value = nn.Linear(channels, channels, dtype=torch.float32)
        self.out = nn.Linear(channels, channels, dtype=torch.float32)

    def clusters(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """The assignment C (M, O) of tokens to clusters; with softmax every row sums to 1."""
        logits_MO = self.cluster(x_OR).T  # noqa: N806
        if self.assignment == "softmax":
            return logits_MO.softmax(dim=1)
        return logits_MO.sigmoid() / logits_MO.shape[1]

    def forward(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """Maps tokens (O, R) to tokens (O, R)."""
        z_MR = F.normalize(self.clusters(x_OR) @ x_OR, dim=-1)  # noqa: N806
        return self.out(attend(self.query(x_OR), self.key(z_MR), self.value(z_MR), self.heads))


class PaCaGenerator(HiddenMapGenerator):
    """Generates delta W = H(W phi) psi with H a transformer whose keys and values are M clusters of the O rows.

    2 R I + depth ((4 + 2 q + M / R) R^2 + (5 + q) R + M) parameters with q the MLP ratio; norm ``layer`` adds 4 R for
    each block, and assignment ``softmax`` takes M off each.

    Args:
        width: I.
        rank: R.
        zero: ``"psi"``.
        side: ``"input"``.
        clusters: M.
        assignment: ``"sigmoid"`` (over O) or ``"softmax"`` over the tokens.
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
        clusters: int = 64,
        assignment: Assignment = "sigmoid",
        norm: Norm = "l2",
        depth: int = 1,
        heads: int = 1,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(width, rank, zero, side)
        check_count("depth", depth)
        self.blocks = nn.Sequential(
            *(Block(PaCa(rank, clusters, heads, assignment), rank, norm, mlp_ratio, drop_path) for _ in range(depth))
        )
        self.reset_parameters()

    def hidden(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """The blocks, one after the other."""
        return self.blocks(x_OR)
