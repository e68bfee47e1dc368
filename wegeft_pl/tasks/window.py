"""Exact gradients under accumulation and ranks: sum the losses, divide once by what the whole step weighed.

Lightning divides each micro-batch's loss by the number of micro-batches, and data-parallel training averages over
ranks. With mean losses that is a mean of means, which weights a token of a short batch more than one of a long batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from wegeft_pl.adapter.sharded import sum_over_processes


@dataclass(frozen=True)
class StepFacts:
    """What one optimiser step was, over all micro-batches and ranks; the same on all ranks.

    Args:
        loss: the mean loss; None where the task returns mean losses, whose weights nobody knows.
        norm: of the gradient that :meth:`WeightWindow.normalise` leaves, before clipping.
        factor: what turns the gradient of the sums into that of the mean.
    """

    loss: float | None
    norm: float
    factor: float


class WeightWindow:
    """Adds up losses and weights (tokens, samples) of the micro-batches of one optimiser step, on the device."""

    def __init__(self) -> None:
        #: (3,): weight, loss sum, number of micro-batches whose loss is not finite.
        self._sums: Tensor | None = None

    def add(self, loss_sum: Tensor, weight: Tensor) -> None:
        """Counts one micro-batch; reads nothing from the device.

        Args:
            loss_sum: () sum of its losses.
            weight: () tensor on the device of training.
        """
        loss_sum = loss_sum.detach()
        values = (weight.detach(), loss_sum, ~torch.isfinite(loss_sum))
        sums = torch.stack([value.to(weight.device, _precise(weight.device)) for value in values])
        self._sums = sums if self._sums is None else self._sums + sums

    def clear(self) -> None:
        """Forgets the micro-batches so far."""
        self._sums = None

    def read(self, gradients: Sequence[Tensor], trainer: Trainer) -> StepFacts:
        """Reads the step: one reduction over ranks, and one wait for the device.

        Call between the last backward pass and gradient clipping, on all ranks.

        Args:
            gradients: of the trained parameters, plain or sharded (DTensor); already reduced over ranks.
            trainer: for accumulation, world size and the reduction over ranks.
        """
        plain = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        device = trainer.strategy.root_device
        nothing = torch.zeros(3, device=device, dtype=_precise(device))
        sums = nothing if self._sums is None else self._sums.to(device)
        # Not the strategy's own reduction, which waits at a barrier first.
        total = sum_over_processes(torch.cat([sums, _shards_square(gradients, sums)]))
        own = torch.nn.utils.get_total_norm(plain).to(sums).square().reshape(1)
        weight, loss_sum, broken, sharded_square, plain_square = torch.cat([total, own]).tolist()
        norm = math.sqrt(sharded_square + plain_square)
        if self._sums is None:
            return StepFacts(None, norm, 1.0)
        factor = trainer.accumulate_grad_batches * trainer.world_size / max(weight, 1.0)
        loss = loss_sum / max(weight, 1.0)
        # An infinite loss and its opposite on another rank cancel to NaN, never to a number; the count says it anyway.
        assert not broken or not math.isfinite(loss)
        return StepFacts(loss, norm * factor, factor)

    def ranks_with_broken_loss(self, trainer: Trainer) -> list[int]:
        """On which ranks a loss was not finite; a collective, for the message of a run that stops."""
        counts = torch.zeros(trainer.world_size, device=trainer.strategy.root_device)
        if self._sums is not None:
            counts[trainer.global_rank] = self._sums[2]
        return [rank for rank, count in enumerate(sum_over_processes(counts).tolist()) if count]

    def normalise(self, gradients: Sequence[Tensor], facts: StepFacts) -> None:
        """Turns gradients of sums into the gradient of the mean over the step's whole weight, then starts anew.

        Does nothing where no weight was added, for tasks that return mean losses.

        Args:
            gradients: changed in place.
            facts: what :meth:`read` returned.
        """
        if self._sums is not None:
            for gradient in gradients:
                gradient.mul_(facts.factor)
        self.clear()


def _shards_square(gradients: Sequence[Tensor], like: Tensor) -> Tensor:
    """This rank's share (1,) of the squared norm of sharded gradients; the shares of all ranks add up to it."""
    by_copies: dict[int, list[Tensor]] = {}
    for gradient in gradients:
        if isinstance(gradient, DTensor):
            mesh = gradient.device_mesh
            shards = math.prod(mesh.size(i) for i, place in enumerate(gradient.placements) if isinstance(place, Shard))
            # Under hybrid sharding several ranks hold the same rows.
            copies = torch.distributed.get_world_size() // shards
            by_copies.setdefault(copies, []).append(gradient.to_local())
    square = torch.zeros(1).to(like)
    for copies, parts in by_copies.items():
        square = square + torch.nn.utils.get_total_norm(parts).to(like).square() / copies
    return square


def _precise(device: torch.device) -> torch.dtype:
    # MPS has no float64; a float32 counts exactly up to 16 million tokens a step.
    return torch.float32 if device.type == "mps" else torch.float64
