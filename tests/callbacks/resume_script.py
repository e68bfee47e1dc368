"""Run by test_resume_processes.py in processes of its own: a part of a run, resumed where the last part ended.

python resume_script.py PROCESSES STRATEGY BATCH_SIZE STEP MODEL_FOLDER DATA_FOLDER RUN_FOLDER
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from small_run import make_task, make_trainer

from wegeft_pl.callbacks import AdapterCheckpoint
from wegeft_pl.data import GSM8KDataModule
from wegeft_pl.tasks import LinearSchedule

#: The steps of the whole run, which the schedule is made for.
STEPS = 11


class Stop(Callback):
    """Ends a part."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


def main(processes: int, strategy: str, batch_size: int, step: int, model: str, data: str, root: Path) -> None:
    """Fits up to a step."""
    warnings.simplefilter("ignore")
    torch.manual_seed(3)
    last = root / "checkpoints" / "last.ckpt"
    trainer = make_trainer(
        root,
        Stop(step),
        AdapterCheckpoint(),
        enable_checkpointing=True,
        devices=processes,
        strategy=strategy,
        accumulate_grad_batches=2,
        max_epochs=None,
        max_steps=STEPS,
        limit_val_batches=0,
    )
    task = make_task(Path(model), generate=False, lr_scheduler=LinearSchedule(warmup_steps=2))
    trainer.fit(task, GSM8KDataModule(data, batch_size=batch_size), ckpt_path=str(last) if last.exists() else None)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:7], Path(sys.argv[7]))
