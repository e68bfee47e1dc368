"""Run by test_classification_ranks.py in processes of its own: a fit and a test, results written as JSON.

python classification_script.py DEVICES OUTPUT.json
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from tasks.tiny_images import NAMES, SIZE, Batch, make_task, make_trainer
from torch.optim import SGD

from wegeft_pl.data.loader import EpochLoader
from wegeft_pl.data.order import BatchOrder

ROWS = 7  # not a multiple of two processes


def blank(batch: Batch) -> Batch:
    return {**batch, "labels": torch.full_like(batch["labels"], -100), "indices": torch.full_like(batch["indices"], -1)}


class Shared(LightningDataModule):
    """Seven images, shared out among processes."""

    class_names = NAMES

    def loader(self, batch_size: int, shuffle: bool) -> EpochLoader:
        kwargs: Any = self.trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}  # type: ignore[union-attr]
        images = torch.randn(ROWS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(ROWS) % 3

        def collate(rows: list[int]) -> Batch:
            return {"pixel_values": images[rows], "labels": labels[rows], "indices": torch.tensor(rows)}

        order = BatchOrder(ROWS, batch_size, shuffle, 0, kwargs["num_replicas"], kwargs["rank"])
        return EpochLoader(list(range(ROWS)), order, collate, blank=blank)  # type: ignore[arg-type]

    def train_dataloader(self) -> EpochLoader:
        return self.loader(4 // self.trainer.world_size, shuffle=True)  # type: ignore[union-attr]

    def test_dataloader(self) -> EpochLoader:
        return self.loader(1, shuffle=False)


def main(devices: int, output: Path) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(10 * devices + int(os.environ.get("LOCAL_RANK", "0")))  # heads must not depend on it
    task = make_task(optimizer=partial(SGD, lr=0.1), ema_decay=0.5, head_lr=0.2)
    fields = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto", "max_epochs": 2}
    start: dict[str, Any] = {}
    trainer = make_trainer(output.parent, adapter=False, **fields)
    task.on_fit_start = lambda: start.update(head=task.model.get_submodule("head").weight.sum().item())  # type: ignore[method-assign]
    trainer.fit(task, datamodule=Shared())
    (scores,) = trainer.test(task, datamodule=Shared(), verbose=False)
    assert task.confusion is not None
    head = task.model.get_submodule("head").bias.tolist()
    if trainer.is_global_zero:
        facts = {"scores": scores, "confusion": task.confusion.tolist(), "bias": head, "start": start["head"]}
        output.write_text(json.dumps(facts))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
