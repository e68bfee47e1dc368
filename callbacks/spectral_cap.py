"""Keeps the adapter within a bound that holds for every layer, by a projection after each optimiser step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from wegeft_pl.adapter.certificate import cap_spectrum
from wegeft_pl.callbacks.reporting import Report, ReportingCallback, adapter_in
from wegeft_pl.tasks.averaged import AveragedTask


class SpectralCap(ReportingCallback):
    """Projects phi and psi after each optimiser step, so that ||W' - W|| <= cap ||W|| for every edited layer.

    Projected gradient descent: singular values of s phi psi above the cap are cut to it, all others stay, and the
    optimiser's state is left alone. List it before callbacks that look at the adapter, such as AdapterMonitor. Not with
    ``ema_decay``: after a step the model is the average, and what trains on would not be capped.

    Args:
        cap: the largest relative change that any layer may have, in the spectral and the Frobenius norm.

    Raises:
        ValueError: the cap is not positive.
    """

    def __init__(self, cap: float) -> None:
        if not cap > 0:
            raise ValueError(f"cap must be positive, got {cap!r}; it bounds ||W' - W|| / ||W||")
        self.cap = cap
        self._steps: dict[str, int] = {}
        self._last_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a task that keeps a moving average.

        Raises:
            ValueError: the task has ``ema_decay``.
        """
        if isinstance(pl_module, AveragedTask) and pl_module.has_average:
            raise ValueError(
                "SpectralCap and ema_decay: the cap would hold for the average and not for what is trained; leave "
                "SpectralCap or --model.ema_decay out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts within the cap, so that a generator that cannot be capped is refused before the first step."""
        self._last_step = trainer.global_step
        cap_spectrum(adapter_in(self, pl_module), self.cap)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Projects after the batch that completed an optimiser step."""
        if trainer.global_step == self._last_step:  # with accumulation most batches change nothing
            return
        self._last_step = trainer.global_step
        for name in cap_spectrum(adapter_in(self, pl_module), self.cap):
            self._steps[name] = self._steps.get(name, 0) + 1

    def report(self) -> Report:
        """``adapter``: the cap, and at how many steps each group had to be projected."""
        return {"adapter": {"sigma_cap": {"cap": self.cap, "projected_steps": dict(self._steps)}}}
