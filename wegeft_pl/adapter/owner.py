"""The one module that an adapter adds to a backbone: the owner of its generators."""

from __future__ import annotations

from typing import Any

from torch import nn

#: The owner's name in a block or in the root.
OWNER = "wegeft"


class Owner(nn.ModuleDict):
    """The module ``wegeft``: generators by group name.

    Called only where the model's root is an nn.Sequential, which runs every child: then it passes its input on.
    """

    def forward(self, x: Any) -> Any:
        """Returns ``x``."""
        return x
