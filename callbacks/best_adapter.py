"""Ends a run with the adapter that scored best in validation, and stops it where the score no longer rises."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from wegeft_pl.adapter.sharded import reshard, shard_like
from wegeft_pl.callbacks.reporting import Report, ReportingCallback, adapter_in, task_of
from wegeft_pl.distributed import EveryRankError


class BestAdapter(ReportingCallback):
    """Keeps the best validated adapter and puts it back at the end of training, before it is saved, scored and merged.

    Checkpoints go on from the last step as always; only what the run leaves behind (``adapter/``, ``merged/``, the
    scores after training) is the best. The first of equal scores wins. How often validation runs is the trainer's
    affair (``val_check_interval``, ``check_val_every_n_epoch``), and on which rows the data's (``limit_val``).

    Args:
        monitor: a value that validation logs, such as ``val/exact_match``.
        mode: whether more (``max``) or less (``min``) of it is better.
        patience: stop after so many validations in a row without a better value; null: never.
        min_delta: by how much a value must be better to count for ``patience``.

    Raises:
        ValueError: a field has a value outside its range.
    """

    def __init__(
        self, monitor: str, mode: Literal["max", "min"] = "max", patience: int | None = None, min_delta: float = 0.0
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be max or min, got {mode!r}")
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1 validation (or null for none), got {patience}")
        if not min_delta >= 0:
            raise ValueError(f"min_delta must not be negative, got {min_delta}")
        self.monitor, self.mode, self.patience, self.min_delta = monitor, mode, patience, min_delta
        self._best: float | None = None
        self._best_step = 0
        self._state: dict[str, Tensor] = {}
        #: The value that patience compares with, and how many validations did not beat it.
        self._mark: float | None = None
        self._waited = 0
        self._restored = False
        self._validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses modules that cannot have an adapter.

        Raises:
            ValueError: the module is no task.
        """
        task_of(self, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the adapter where it is the best so far, and stops the run where patience is at its end.

        Raises:
            EveryRankError: validation logged no such value.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if self.monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise EveryRankError(f"BestAdapter: validation logged no {self.monitor!r}; it logged {logged}")
        if trainer.sanity_checking:  # which has shown that the value is there, before anything is trained
            return
        self._validated = True
        value = float(trainer.callback_metrics[self.monitor])
        if trainer.strategy.reduce_boolean_decision(self._beats(value, self._best, 0.0)):
            self._best, self._best_step = value, trainer.global_step
            state = adapter_in(self, pl_module).whole_state_dict()
            self._state = {name: tensor.clone() for name, tensor in state.items()}
        if trainer.strategy.reduce_boolean_decision(self._beats(value, self._mark, self.min_delta)):
            self._mark, self._waited = value, 0
        else:
            self._waited += 1
            if self.patience is not None and self._waited >= self.patience:
                rank_zero_info(f"{self.monitor} did not get better than {self._mark} in {self._waited} validations")
                trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the best adapter back, unless the last one is it; warns where no validation ever ran."""
        if not self._validated:
            rank_zero_warn(
                "BestAdapter: no validation ran, so the last adapter stays; hold rows out with data.val_size, or "
                "validate more often with trainer.val_check_interval"
            )
        if not self._state or self._best_step == trainer.global_step:
            return
        adapter = adapter_in(self, pl_module)
        reshard(adapter.model)
        with torch.no_grad():
            for name, tensor in adapter.state_dict().items():
                tensor.copy_(shard_like(self._state[name], tensor))
        self._restored = True
        rank_zero_info(f"the best adapter by {self.monitor} ({self._best:.4g}) is the one of step {self._best_step}")

    def state_dict(self) -> dict[str, Any]:
        """The best so far, values and all, so that a resumed run knows it."""
        return {
            "best": self._best,
            "best_step": self._best_step,
            "state": self._state,
            "mark": self._mark,
            "waited": self._waited,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the best of the part before."""
        self._best, self._best_step = state_dict["best"], state_dict["best_step"]
        self._state = dict(state_dict["state"])
        self._mark, self._waited = state_dict["mark"], state_dict["waited"]
        self._validated = self._best is not None

    def report(self) -> Report:
        """``best``: what was monitored, the best value, its step, and whether it had to be put back."""
        if self._best is None:
            return {}
        found = {"monitor": self.monitor, "value": self._best, "step": self._best_step, "restored": self._restored}
        return {"best": found}

    def _beats(self, value: float, other: float | None, margin: float) -> bool:
        if math.isnan(value):
            return False
        if other is None:
            return True
        return value > other + margin if self.mode == "max" else value < other - margin
