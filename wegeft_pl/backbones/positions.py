"""Logits only where they are needed: the hidden states are cut down before they reach the output head.

Shapes: B batch, T tokens, N kept positions, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def only_positions(head: nn.Module, mask_BT: Tensor) -> Iterator[None]:  # noqa: N803
    """Lets a model's output head see only some positions, whatever the model does around the head.

    While active, the head's input (B, T, H) becomes (1, N, H), so the model returns logits (1, N, V). A model's own
    scaling or soft-capping of logits still applies, because the model itself calls the head. Full logits of a batch
    are the largest tensor of a training step, and positions of the prompt and of padding carry no loss.

    Args:
        head: the output head, ``model.get_output_embeddings()``.
        mask_BT: (B, T) bool, the positions to keep; its True entries, row by row, are the N positions.
    """

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_BTH, *rest = args  # noqa: N806
        return (hidden_BTH[mask_BT][None], *rest)

    # Before the adapter's own hook, where the head is a target too.
    handle = head.register_forward_pre_hook(select, prepend=True)
    try:
        yield
    finally:
        handle.remove()
