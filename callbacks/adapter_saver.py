"""Writes the adapter folder of a run as soon as there is something to keep."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from wegeft_pl.callbacks.reporting import (
    Report,
    ReportingCallback,
    adapter_in,
    is_sharded,
    is_trial,
    run_folder,
    task_of,
)

#: The folder's name in the run folder.
FOLDER = "adapter"


class AdapterSaver(ReportingCallback):
    """Writes ``adapter/`` in the run folder at the end of every epoch and of training.

    Apart from checkpoints, because it must exist where they are switched off, and before anything else is tried at
    the end of training (scores, merging): whatever fails there, the trained adapter is on disk. Each file is replaced
    atomically and only after it was read back. ``fast_dev_run`` writes nothing, as Lightning writes no checkpoint then.
    """

    def __init__(self) -> None:
        self._path: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses modules that cannot have an adapter, before anything is trained.

        Raises:
            ValueError: the module is no :class:`FineTuneTask`.
        """
        task_of(self, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the adapter."""
        self._save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the adapter, which may be another than at the epoch's end: the best one."""
        self._save(trainer, pl_module)

    def report(self) -> Report:
        """``paths.adapter``."""
        return {"paths": {"adapter": self._path}} if self._path is not None else {}

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_trial(trainer):
            return
        adapter, folder = adapter_in(self, pl_module), run_folder(trainer) / FOLDER
        if trainer.is_global_zero or is_sharded(
            trainer
        ):  # sharded, all ranks give their parts and the first one writes
            adapter.save(folder, overwrite=True, base_name=task_of(self, pl_module).backbone_name)
        trainer.strategy.barrier("adapter saved")
        self._path = str(folder)
