"""Run by test_levers.py in processes of its own: one training step with memory levers, the gradients as JSON.

python levers_script.py STRATEGY LLAMA_FOLDER TASK_FIELDS_AS_JSON OUTPUT.json
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, seed_everything
from small_run import loader, make_batch, make_task, make_trainer
from torch.utils.data import DataLoader

from wegeft_pl.adapter.sharded import whole


class Halves(LightningDataModule):
    """One batch of four rows, or two rows of it on each of two processes."""

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        rows = {name: value[rank::world] for name, value in make_batch(1, 4).items()}
        return loader([rows])


class Recorder(torch.optim.SGD):
    """Keeps the gradients of its step."""

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        loss = closure() if closure else None
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.gradients = [whole(parameter.grad).double().flatten().tolist() for parameter in parameters]
        return loss


def main(strategy: str, folder: str, fields: dict[str, Any], output: Path) -> None:
    """Takes one step, with strategy auto on one process, else on two."""
    # torch's own words about DDP on models whose gradients alias; errors in tests, chatter here.
    warnings.simplefilter("ignore")
    seed_everything(0, verbose=False)
    recorders: list[Recorder] = []

    def optimizer(parameters):  # type: ignore[no-untyped-def]
        recorders.append(Recorder(parameters, lr=0.0))
        return recorders[0]

    task = make_task(Path(folder), optimizer=optimizer, generate=False, **fields)
    devices = 1 if strategy == "auto" else 2
    trainer = make_trainer(output.parent, devices=devices, strategy=strategy, max_steps=1, limit_val_batches=0)
    trainer.fit(task, datamodule=Halves())
    if trainer.is_global_zero:
        output.write_text(json.dumps(recorders[0].gradients))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4]))
