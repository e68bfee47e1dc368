"""Lines for the user about what became of the data."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console


@rank_zero_only
def tell(*lines: str) -> None:
    """Prints lines for the user, once however many processes there are; square brackets mean nothing in them."""
    for line in lines:
        Console().print(line, highlight=False, soft_wrap=True, markup=False)
