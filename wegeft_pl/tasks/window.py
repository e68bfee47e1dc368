"""Exact gradients under accumulation and ranks: sum the losses, divide once by what the whole step weighed.

Lightning divides each micro-batch's loss by the number of micro-batches, and data-parallel training averages over
ranks. With mean losses that is a mean of means, which weights a token of a short batch more than one of a long batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn


class WeightWindow:
    """Adds up the weights (tokens, samples) of the micro-batches of one optimiser step."""

    def __init__(self) -> None:
        self._total: Tensor | None = None

    def add(self, weight: Tensor) -> None:
        """Counts one micro-batch.

        Args:
            weight: () tensor on the device of training.
        """
        weight = weight.detach().to(torch.float64 if weight.device.type == "cpu" else torch.float32)
        self._total = weight if self._total is None else self._total + weight

    def normalise(self, parameters: Iterable[nn.Parameter], trainer: Trainer) -> None:
        """Turns gradients of sums into the gradient of the mean over the step's whole weight, then starts anew.

        Call between the last backward pass and gradient clipping. Does nothing where no weight was added, for tasks
        that return mean losses.

        Args:
            parameters: the trained parameters.
            trainer: for accumulation, world size and the reduction over ranks.
        """
        if self._total is None:
            return
        total = trainer.strategy.reduce(self._total, reduce_op="sum")
        assert isinstance(total, Tensor)
        factor = trainer.accumulate_grad_batches * trainer.world_size / total.clamp(min=1)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        self._total = None
