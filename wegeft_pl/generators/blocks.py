"""The parts that hidden maps are built of: norms, residual branches, the channel MLP.

Shapes: O tokens (rows of W phi), R channels.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wegeft_pl.generators.checks import check_choice, check_number

Norm = Literal["l2", "layer", "none"]


class L2Norm(nn.Module):
    """Scales each token to unit length over its channels; nothing is learned, and a zero token stays zero."""

    def forward(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """Returns x / ||x|| (O, R)."""
        return F.normalize(x_OR, dim=-1)


def make_norm(norm: str, channels: int) -> nn.Module:
    """Makes the norm that a recipe names.

    Args:
        norm: ``"l2"``, ``"layer"`` (LayerNorm, 2 R parameters) or ``"none"``.
        channels: R.

    Raises:
        ValueError: the name is another one.
    """
    check_choice("norm", norm, get_args(Norm))
    if norm == "l2":
        return L2Norm()
    return nn.Identity() if norm == "none" else nn.LayerNorm(channels, dtype=torch.float32)


class Residual(nn.Module):
    """x + branch(norm(x)), the branch left out at random in training.

    The tokens of one site are one sample, so drop path drops the branch for a whole call and, where it stays, scales it
    by 1 / (1 - drop_path).

    Args:
        branch: (O, R) to (O, R).
        channels: R.
        norm: l2, layer or none.
        drop_path: probability of leaving the branch out.

    Raises:
        ValueError: ``norm`` or ``drop_path`` has a value outside its range.
    """

    def __init__(self, branch: nn.Module, channels: int, norm: str, drop_path: float) -> None:
        super().__init__()
        check_number("drop_path", drop_path, 0, 1)
        self.norm = make_norm(norm, channels)
        self.branch = branch
        self.drop_path = drop_path

    def forward(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """Maps tokens (O, R) to tokens (O, R)."""
        change = self.branch(self.norm(x_OR))
        if self.training and self.drop_path > 0:
            change = change * F.dropout(change.new_ones(()), self.drop_path)
        return x_OR + change


class ChannelMLP(nn.Module):
    """R -> ratio R -> R with GELU between, for every token by itself: 2 ratio R^2 + (ratio + 1) R parameters.

    Args:
        channels: R.
        ratio: hidden channels for each channel.

    Raises:
        ValueError: the ratio is not positive.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        check_number("mlp_ratio", ratio, 1 / channels, float("inf"))
        hidden = round(ratio * channels)
        self.up = nn.Linear(channels, hidden, dtype=torch.float32)
        self.down = nn.Linear(hidden, channels, dtype=torch.float32)

    def forward(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """Maps tokens (O, R) to tokens (O, R)."""
        return self.down(F.gelu(self.up(x_OR)))


class Block(nn.Sequential):
    """One pre-norm block: tokens mix among themselves, then each through the channel MLP.

    Args:
        mixing: maps (O, R) to (O, R) across tokens; None leaves that step out.
        channels: R.
        norm: l2, layer or none, before each of the two.
        mlp_ratio: of the channel MLP.
        drop_path: probability of leaving a branch out.

    Raises:
        ValueError: an option has a value outside its range.
    """

    def __init__(self, mixing: nn.Module | None, channels: int, norm: str, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        if mixing is not None:
            self.add_module("tokens", Residual(mixing, channels, norm, drop_path))
        self.add_module("channels", Residual(ChannelMLP(channels, mlp_ratio), channels, norm, drop_path))
