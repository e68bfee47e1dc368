"""Compiling a backbone block by block: one graph serves all blocks, and no name changes."""

from __future__ import annotations

from typing import Any

from torch import nn

from wegeft_pl.distributed import blocks_of


def compile_blocks(backbone: nn.Module, **options: Any) -> None:
    """Compiles every repeated block in place, so that no ``_orig_mod`` gets into the state dict.

    After the adapter is attached, whose hooks become part of the graph, and before the backbone is sharded. Activation
    checkpointing stays outside of the graphs: a block is recomputed by its compiled form.

    Args:
        backbone: with its adapter.
        options: of :func:`torch.compile`, such as ``backend``.

    Raises:
        ValueError: nothing repeats in the backbone.
    """
    blocks = blocks_of(backbone)
    if not blocks:
        raise ValueError(f"compile_blocks: {type(backbone).__name__} has no repeated blocks; leave it out")
    for block in blocks.values():
        block.compile(**options)
