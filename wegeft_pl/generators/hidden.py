"""What generators with a map between phi and psi share.

Shapes: O out features (tokens), I in features, R rank (channels).
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from wegeft_pl.generators.base import Generator


class HiddenMapGenerator(Generator):
    """Generates delta W = H(W phi) psi, where H acts on the rows of W phi as tokens of R channels.

    The product W phi is made in W's dtype, so that W is never copied; H and all parameters are float32 (H float64 for a
    float64 weight), also under autocast, because what is merged and exported must be what was trained. 2 R I parameters
    beside those of H.

    A subclass makes the parts of H in its constructor, then calls :meth:`reset_parameters`.

    Args:
        width: I.
        rank: R.
        zero: the factor that starts at zero. With psi the change is zero whatever H is, and psi has a gradient. phi
            will not do unless H maps zero to zero with a gradient there.
        side: ``"input"``; the product with psi comes after H, so there is no output side.

    Raises:
        ValueError: ``zero`` or ``side`` has another value.

    Source: METHOD.md section 4.
    """

    zeros: tuple[str, ...] = ("psi",)

    def __init__(self, width: int, rank: int, zero: str, side: str) -> None:
        super().__init__(width, rank, zero, side)
        if side != "input":
            raise ValueError(f"side: {side} needs a generator that is linear in W, and {type(self).__name__} is not")
        self.phi = nn.Parameter(torch.empty(width, rank, dtype=torch.float32))
        self.psi = nn.Parameter(torch.empty(rank, width, dtype=torch.float32))

    @abstractmethod
    def hidden(self, x_OR: Tensor) -> Tensor:  # noqa: N803
        """The map H on tokens (O, R), in the parameters' dtype."""

    def tokens(self, weight_OI: Tensor) -> Tensor:  # noqa: N803
        """W phi (O, R) in the parameters' dtype; the product itself is made in the weight's."""
        return (weight_OI @ self.phi.to(weight_OI.dtype)).to(self.phi.dtype)

    def forward(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
        """Generates ``left`` (O, R) = H(W phi) and ``right`` (R, I) = psi; see :class:`Generator`."""
        exact = torch.promote_types(weight_OI.dtype, self.phi.dtype)
        if exact != self.phi.dtype:  # a float64 weight: H follows it, as it does when the change is merged
            cast = {name: parameter.to(exact) for name, parameter in self.named_parameters()}
            return torch.func.functional_call(self, cast, (weight_OI,))
        if weight_OI.is_meta:  # shapes alone; autocast knows no meta device
            return self.generate(weight_OI)
        with torch.autocast(weight_OI.device.type, enabled=False):
            return self.generate(weight_OI)

    def generate(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
        """The factors, once precision is settled."""
        return self.hidden(self.tokens(weight_OI)), self.psi

    def reset_parameters(self) -> None:
        """Zeroes one factor and draws the rest.

        The other factor and every linear layer are Kaiming-uniform with a = sqrt(5), biases zero: a random bias would
        be larger than the tokens that it is added to.
        """
        for name, factor in (("phi", self.phi), ("psi", self.psi)):
            if name == self.zero:
                nn.init.zeros_(factor)
            else:
                nn.init.kaiming_uniform_(factor.T if name == "phi" else factor, a=math.sqrt(5))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                module.reset_parameters()
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
