"""A run of two processes, started by a test: ``python two_ranks.py MODEL_FOLDER RUN_FOLDER``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from small_run import SmallData, make_task, make_trainer
from torch.utils.data import DataLoader

from wegeft_pl.callbacks import (
    AdapterCheckpoint,
    AdapterMerge,
    AdapterSaver,
    BeforeAfter,
    MemoryAccounting,
    ParameterAccounting,
    RunReport,
    SampleWriter,
    Throughput,
)


class SharedData(SmallData):
    """Every process takes every second batch of training; both score the whole validation and test split."""

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        batches = list(super().train_dataloader())
        return DataLoader(batches[self.trainer.global_rank :: 2], batch_size=None)  # type: ignore[arg-type]


def main(model: Path, root: Path) -> None:
    """Fits with every callback."""
    warnings.simplefilter("ignore")
    callbacks = [
        AdapterSaver(),
        BeforeAfter(),
        AdapterCheckpoint(),
        ParameterAccounting(),
        MemoryAccounting(),
        Throughput(warmup_batches=1),
        SampleWriter(),
        AdapterMerge(),
        RunReport(),
    ]
    trainer = make_trainer(root, *callbacks, enable_checkpointing=True, devices=2, strategy="ddp")
    trainer.fit(make_task(model), datamodule=SharedData())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
