"""What a strategy sends in one optimiser step, and what it gathers for a moment, from parameter shapes alone.

Symbols: n devices that share one copy of the weights (shards), r copies (replicas), k micro-batches a step, L blocks.
FSDP2 cuts each parameter along its first axis into n equal parts, padding the last ones, and gathers and reduces unit
by unit: each of the L blocks is one, the rest of the backbone is the root's. Frozen weights are gathered and have no
gradient; only what is trained is reduced. docs/SCALING.md derives the formulae and checks them against counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Piece:
    """One parameter as a strategy sees it.

    Args:
        rows: length of the first axis; 1 where there is none.
        row_bytes: bytes of one of them.
        trained: whether it has a gradient, which then has its dtype.
    """

    rows: int
    row_bytes: int
    trained: bool

    def gathered(self, shards: int) -> int:
        """Bytes of the whole parameter as it is gathered from ``shards`` equal parts: with its padding."""
        return shards * -(-self.rows // shards) * self.row_bytes


@dataclass(frozen=True)
class Unit:
    """What is gathered at once: a block, or the rest of the backbone.

    Args:
        name: the block's; ``""`` for the root.
        pieces: its parameters, each once.
    """

    name: str
    pieces: tuple[Piece, ...]

    def gathered(self, shards: int) -> int:
        """Bytes of all parameters, gathered."""
        return sum(piece.gathered(shards) for piece in self.pieces)

    def reduced(self, shards: int) -> int:
        """Bytes of all gradients before they are scattered over ``shards`` devices; 0 where nothing is trained."""
        return sum(piece.gathered(shards) for piece in self.pieces if piece.trained)


@dataclass(frozen=True)
class Communication:
    """Collectives of one optimiser step and the bytes of their whole tensors, the same on each device.

    The whole tensor of an all-gather is its output, of a reduce-scatter its input. Scalars (the step's weight, the
    gradient's norm) are not in it.

    Args:
        all_gathers: how many of weights.
        all_gather_bytes: of all of them together.
        reduce_scatters: how many of gradients.
        reduce_scatter_bytes: of all of them together.
        all_reduces: how many of gradients, over the replicas; None where it depends on the buckets (ddp).
        all_reduce_bytes: of all of them together.
        received: bytes that come in at one device where rings are used: (n - 1) / n of what is gathered or scattered,
            2 (r - 1) / r of what is reduced over replicas.
    """

    all_gathers: int
    all_gather_bytes: int
    reduce_scatters: int
    reduce_scatter_bytes: int
    all_reduces: int | None
    all_reduce_bytes: int
    received: int

    def to_dict(self) -> dict[str, int | None]:
        """The words of ``plan --json``."""
        return {
            "all_gathers": self.all_gathers,
            "all_gather_bytes": self.all_gather_bytes,
            "reduce_scatters": self.reduce_scatters,
            "reduce_scatter_bytes": self.reduce_scatter_bytes,
            "all_reduces": self.all_reduces,
            "all_reduce_bytes": self.all_reduce_bytes,
            "received_bytes": self.received,
        }


def units_of(backbone: nn.Module, blocks: Mapping[str, nn.Module]) -> list[Unit]:
    """Lists what is gathered at once, the root first.

    Args:
        backbone: with its adapter in place, on any device and not sharded yet.
        blocks: the modules that are units of their own, by name, in the order in which they compute.
    """
    parameters = {name: list(block.parameters()) for name, block in blocks.items()}
    inside = {id(parameter) for own in parameters.values() for parameter in own}
    root = [parameter for parameter in backbone.parameters() if id(parameter) not in inside]
    return [Unit(name, _pieces(own)) for name, own in {"": root, **parameters}.items()]


def fsdp_step(
    units: Sequence[Unit], shards: int, *, replicas: int = 1, micro_batches: int = 1, reshard_after_forward: bool = True
) -> Communication:
    """Counts one optimiser step of ``wegeft_fsdp``.

    Every micro-batch gathers the root once and each block twice, for its forward and for its backward pass, or once
    where blocks stay whole in between. Recomputation under gradient checkpointing happens while the block is whole for
    its backward pass, so it gathers nothing. Gradients are reduced in the last micro-batch alone, unit by unit where
    something is trained.

    Args:
        units: see :func:`units_of`; every block takes part in the backward pass, as it does where the first one is
            edited.
        shards: n, devices that share one copy.
        replicas: r, copies.
        micro_batches: k, of one device in one step.
        reshard_after_forward: whether blocks are given back after their forward pass.

    Returns:
        The counts; all zero on one device, where nothing needs to be sent.
    """
    root, blocks = units[0], units[1:]
    passes = 2 if reshard_after_forward else 1
    split = shards > 1
    gathered = split * micro_batches * (root.gathered(shards) + passes * sum(b.gathered(shards) for b in blocks))
    trained = [unit.reduced(shards) for unit in units if unit.reduced(shards)]
    copies = sum(trained) // shards if replicas > 1 else 0
    return Communication(
        all_gathers=split * micro_batches * (1 + passes * len(blocks)),
        all_gather_bytes=gathered,
        reduce_scatters=split * len(trained),
        reduce_scatter_bytes=split * sum(trained),
        all_reduces=len(trained) if replicas > 1 else 0,
        all_reduce_bytes=copies,
        received=(gathered + split * sum(trained)) * (shards - 1) // shards + 2 * copies * (replicas - 1) // replicas,
    )


def ddp_step(units: Sequence[Unit], devices: int) -> Communication:
    """Counts one optimiser step of plain data parallelism: all trained gradients are reduced, once a step.

    Args:
        units: see :func:`units_of`.
        devices: that each hold all weights.
    """
    size = sum(unit.reduced(1) for unit in units) if devices > 1 else 0
    return Communication(0, 0, 0, 0, None if size else 0, size, 2 * size * (devices - 1) // devices)


def gathered_bytes(
    units: Sequence[Unit],
    shards: int,
    *,
    micro_batches: int = 1,
    reshard_after_forward: bool = True,
    activations: int = 0,
) -> int:
    """The most that a device of ``wegeft_fsdp`` holds beside its share of everything, activations left out.

    In the backward pass the root is whole, one block is whole, the next one is on its way, and so are gradients: the
    root's, and those of the block that is being reduced and of the one before, or of all blocks where they wait for
    the last micro-batch. Before the first block computes, the root is there twice, as it came in and as it is used, and
    the first block is on its way; that is more where embeddings are large, but there are no activations yet.

    Args:
        units: see :func:`units_of`.
        shards: n; with 1 (all devices are replicas) FSDP2 still computes on a copy of each unit.
        micro_batches: k.
        reshard_after_forward: False keeps all blocks whole.
        activations: bytes that are in the backward pass's peak and not yet at the start.

    Returns:
        Bytes, for an allocator that can reuse at once what was given back.
    """
    root, blocks = units[0].gathered(shards), [unit.gathered(shards) for unit in units[1:]]
    waiting = [unit.reduced(shards) for unit in units[1:]]
    gradients = units[0].reduced(shards) + (sum(waiting) if micro_batches > 1 else 2 * max(waiting, default=0))
    on_its_way = max(blocks, default=0) if shards > 1 else 0
    held = (max(blocks, default=0) if reshard_after_forward else sum(blocks)) + on_its_way
    start = (2 * root + max(blocks, default=0)) if shards > 1 else 0
    return max(root + held + gradients, start - activations)


def _pieces(parameters: Iterable[nn.Parameter]) -> tuple[Piece, ...]:
    each = {id(parameter): parameter for parameter in parameters}.values()
    return tuple(
        Piece(p.shape[0] if p.ndim else 1, math.prod(p.shape[1:]) * p.element_size(), p.requires_grad) for p in each
    )
