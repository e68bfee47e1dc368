"""What a run's memory went into, measured, beside what was to be expected from shapes alone."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map_only

from wegeft_pl.accounting import estimate_memory, gradient_bytes, state_bytes, weight_bytes
from wegeft_pl.callbacks.reporting import Report, ReportingCallback, is_log_step, is_sharded, log_scalars, task_of
from wegeft_pl.tasks import FineTuneTask

#: What ``peak`` is, by kind of device.
MEASURED = {
    "cuda": "most bytes allocated by torch on the device during training steps",
    "cpu": "largest resident set of the whole process (Python and libraries too), sampled after each forward pass, "
    "backward pass and step",
}


class MemoryAccounting(ReportingCallback):
    """Measures training steps and splits the peak into weights, gradients, optimiser and activations.

    Weights, gradients and optimiser state are counted from the tensors that exist. On CUDA the activations are the
    allocator's peak minus those; on a CPU they cannot be told from the process and stay null. The estimate is made at
    the end, for the largest batch that was seen. Logs ``memory/*`` every ``trainer.log_every_n_steps``. Numbers are
    those of the first rank's device.
    """

    def __init__(self) -> None:
        self._device = "cpu"
        self._peak = self._reserved = 0
        self._weights = self._gradients = self._optimizer = 0
        self._largest: Any = None
        self._largest_size = 0
        self._estimate: dict[str, int | None] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the weights."""
        self._device = pl_module.device.type
        self._weights = weight_bytes(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts a new peak and remembers the largest batch."""
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        size = sum(leaf.numel() for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
        if size > self._largest_size:
            self._largest_size = size
            self._largest = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Samples while all activations are alive."""
        self._sample(pl_module)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Samples while all gradients are alive."""
        self._sample(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Counts the gradients."""
        self._gradients = max(self._gradients, gradient_bytes(pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Samples, and logs where it is time."""
        self._sample(pl_module)
        if is_log_step(trainer):
            self._count_optimizer(trainer)
            log_scalars(trainer, {f"memory/{k}": float(v) for k, v in self._parts().items() if isinstance(v, int)})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the optimiser's state and estimates the memory of the largest batch."""
        self._count_optimizer(trainer)
        task = task_of(self, pl_module)
        if self._largest is not None and not is_sharded(trainer):
            # Sharded parameters are no plain tensors; `plan` estimates for any number of devices.
            self._estimate = self._estimated(task)
        self._largest = None

    def report(self) -> Report:
        """``memory_bytes``: parts and peak, the estimate of the same, and what was measured."""
        if not self._peak:
            return {}
        return {"memory_bytes": self._parts() | {"measured": MEASURED[self._device], "estimate": self._estimate}}

    def _parts(self) -> dict[str, int | None]:
        known = {"weights": self._weights, "gradients": self._gradients, "optimizer": self._optimizer}
        parts: dict[str, int | None] = {**known, "activations": None, "peak": self._peak}
        if self._device == "cuda":
            parts["activations"] = max(0, self._peak - sum(known.values()))
            parts["reserved"] = self._reserved
        return parts

    def _sample(self, pl_module: LightningModule) -> None:
        if self._device == "cuda":
            self._peak = max(self._peak, torch.cuda.max_memory_allocated(pl_module.device))
            self._reserved = max(self._reserved, torch.cuda.max_memory_reserved(pl_module.device))
        else:
            self._peak = max(self._peak, resident_bytes())

    def _count_optimizer(self, trainer: Trainer) -> None:
        self._optimizer = max(self._optimizer, sum(state_bytes(optimizer) for optimizer in trainer.optimizers))

    def _estimated(self, task: FineTuneTask) -> dict[str, int | None] | None:
        says_loss = type(task).training_loss is not FineTuneTask.training_loss
        batch = self._largest
        try:
            estimate = estimate_memory(task, task.optimizer, (lambda: task.training_loss(batch)) if says_loss else None)
        except Exception as error:
            # Someone's own training_loss may need values, which shapes do not have. A finished run must not end in
            # an error because of that.
            rank_zero_info(f"no memory estimate: {type(task).__name__}.training_loss fails without values ({error})")
            return None
        return estimate.to_dict()


def resident_bytes() -> int:
    """Bytes of physical memory that this process holds now (where /proc is missing: the most that it ever held)."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
