"""Learning-rate schedules: pure multipliers of the step, chosen in a recipe by class path."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class Schedule(ABC):
    """A learning rate as a multiple of the optimiser's own, after a linear warm-up.

    Args:
        warmup_ratio: share of all steps that warm up, 0 to 1.
        warmup_steps: steps that warm up; overrides the ratio where given.
        min_ratio: the multiple that the decay ends at.

    Raises:
        ValueError: a field is outside its range.
    """

    warmup_ratio: float = 0.0
    warmup_steps: int | None = None
    min_ratio: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup_ratio", "min_ratio"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")

    @abstractmethod
    def decay(self, progress: float) -> float:
        """The multiple after warm-up.

        Args:
            progress: 0 at the end of warm-up, 1 at the last step.
        """

    def multiplier(self, step: int, total_steps: int) -> float:
        """The multiple of the optimiser's learning rate at a step.

        Args:
            step: 0 for the first optimiser step.
            total_steps: optimiser steps of the whole run.

        Example:
            >>> schedule = LinearSchedule(warmup_steps=2)
            >>> [round(schedule.multiplier(step, 6), 2) for step in range(6)]
            [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        warmup = round(self.warmup_ratio * total_steps) if self.warmup_steps is None else self.warmup_steps
        if step < warmup:
            # The first step already learns: a rate of zero would waste a batch.
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return self.min_ratio + (1 - self.min_ratio) * self.decay(min(1.0, progress))

    def build(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        """Ties the schedule to an optimiser for a run of ``total_steps`` optimiser steps."""
        return LambdaLR(optimizer, lambda step: self.multiplier(step, total_steps))


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """Warm-up, then the optimiser's own learning rate."""

    def decay(self, progress: float) -> float:
        """1 at all times."""
        return 1.0


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    """Warm-up, then a straight line down to ``min_ratio``."""

    def decay(self, progress: float) -> float:
        """1 - progress."""
        return 1.0 - progress


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """Warm-up, then half a cosine down to ``min_ratio``."""

    def decay(self, progress: float) -> float:
        """(1 + cos(pi progress)) / 2."""
        return 0.5 * (1 + math.cos(math.pi * progress))
