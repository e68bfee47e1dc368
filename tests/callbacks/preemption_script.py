"""Run by test_preemption.py in two processes, of which only the second gets a signal.

python preemption_script.py MODEL_FOLDER DATA_FOLDER RUN_FOLDER WHEN
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small_run import make_task, make_trainer

from wegeft_pl.callbacks import AdapterCheckpoint, Preemption
from wegeft_pl.data import GSM8KDataModule


class Signal(Callback):
    """Sends SIGTERM to rank 1 in a step or a validation."""

    def __init__(self, when: str) -> None:
        self.when = when

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.when == "training" and batch_idx == 2 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_start(self, trainer: Trainer, *rest: Any) -> None:
        if self.when == "validation" and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def main(model: str, data: str, root: Path, when: str) -> None:
    """Fits until the signal."""
    warnings.simplefilter("ignore")
    torch.manual_seed(3)
    callbacks = (Signal(when), AdapterCheckpoint(), Preemption())
    trainer = make_trainer(root, *callbacks, enable_checkpointing=True, devices=2, strategy="ddp", max_epochs=3)
    trainer.fit(make_task(Path(model), generate=False), GSM8KDataModule(data, batch_size=2))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
