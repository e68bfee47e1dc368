"""Self-attention among tokens, and what every attention here shares.

Shapes: O tokens, K tokens attended to, R channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wegeft_pl.generators.checks import check_count


def check_heads(heads: object, channels: int) -> None:
    """Accepts a number of heads that divides the channels.

    Raises:
        ValueError: it does not.
    """
    check_count("heads", heads)
    assert isinstance(heads, int)
    if channels % heads:
        raise ValueError(f"heads: {heads} does not divide the {channels} channels (the rank); choose a divisor")


def attend(query_OR: Tensor, key_KR: Tensor, value_KR: Tensor, heads: int) -> Tensor:  # noqa: N803
    """softmax(Q K^T / sqrt(R / heads)) V, head by head.

    Args:
        query_OR: (O, R).
        key_KR: (K, R).
        value_KR: (K, R).
        heads: how many parts the channels are split into; divides R.

    Returns:
        (O, R).
    """
    # Four dimensions: with fewer, the kernels that never hold the O x K matrix are passed over.
    split = [x.unflatten(1, (heads, -1)).transpose(0, 1)[None] for x in (query_OR, key_KR, value_KR)]
    return F.scaled_dot_product_attention(*split)[0].transpose(0, 1).flatten(1)


class SelfAttention(nn.Module):
    """Attention among all O tokens, its time quadratic in O: 4 R^2 + 4 R parameters.

    The bias of the keys shifts all logits of a query alike and so changes nothing; it is there as the paper has it.

    Args:
        channels: R.
        heads: divides R.

    Raises:
        ValueError: it does not.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        check_heads(heads, channels)
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, dtype=torch.float32)
        self.out = nn.Linear(channels, channels, dtype=torch.float32)

    def forward(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """Maps tokens (O, R) to tokens (O, R)."""
        query, key, value = self.qkv(x_OR).chunk(3, dim=1)
        return self.out(attend(query, key, value, self.heads))
