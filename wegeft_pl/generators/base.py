"""What every generator is: a module that turns a frozen weight into the two factors of its change.

Shapes: O out features, I in features, R rank of the change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Generator(nn.Module, ABC):
    """Maps a frozen weight to the low-rank factors of its change, ``delta W = left @ right``.

    A generator belongs to a group of sites and is called once per site with that site's weight; the scale ``s`` of the
    adapter is applied by the caller. ``width`` is the size of the side that the generator works on and that all sites
    of a group must share: I on the input side, O on the output side.

    Args:
        width: features of the edited side (I for ``side="input"``, O for ``side="output"``).
        rank: inner size R of the factors.
        zero: which factor starts at zero, ``"phi"`` or ``"psi"``, so that step 0 is the pretrained model.
        side: ``"input"`` for W' = W + s (W phi) psi, ``"output"`` for W' = W + s phi (psi W).

    A subclass is called with these four by position. Its further keyword parameters are its options
    (``generator_options`` of the adapter's config); a parameter ``rows`` gets the number of rows O of the weights, for
    generators that are built for one, and its default for ``zero`` holds where the user leaves it open.

    Raises:
        ValueError: ``zero`` names a factor that this generator cannot start at zero.

    Source: METHOD.md sections 1 and 4.
    """

    #: True when delta W = W phi psi (or phi psi W) for parameters ``phi`` and ``psi``, so that a site can edit its
    #: input (or output) and never read W. Nonlinear generators leave it False and are served by the factor form.
    can_edit: bool = False
    #: The factors that may start at zero: those for which the change is then exactly zero and has a gradient.
    zeros: tuple[str, ...] = ("phi", "psi")
    #: The two linear maps, phi (D, R) and psi (R, D); present where ``can_edit`` is True.
    phi: nn.Parameter
    psi: nn.Parameter

    def __init__(self, width: int, rank: int, zero: str, side: str) -> None:
        super().__init__()
        if zero not in self.zeros:
            raise ValueError(
                f"{type(self).__name__} can start at zero by {' or '.join(self.zeros)} only, got zero: {zero}; "
                f"set zero: {self.zeros[0]}"
            )
        self.width = width
        self.rank = rank
        self.zero = zero
        self.side = side

    @abstractmethod
    def forward(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
        """Generates the factors of one site's weight change.

        Args:
            weight_OI: the frozen weight (O, I), any floating dtype; it is never copied to the generator's dtype.

        Returns:
            ``left`` (O, R) and ``right`` (R, I) with delta W = left @ right, before the scale s; each in the weight's
            or in the parameters' dtype.
        """

    @abstractmethod
    def reset_parameters(self) -> None:
        """Initialises every parameter so that the generated change is exactly zero.

        Separate from the constructor because a backbone built on the meta device gets its values later.
        """

    def extra_repr(self) -> str:
        """The constructor's arguments, for ``print(model)``."""
        return f"width={self.width}, rank={self.rank}, zero={self.zero!r}, side={self.side!r}"
