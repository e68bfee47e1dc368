"""Checkpoints of a run: trainable state, optimiser and loops, kilobytes, replaced atomically."""

from __future__ import annotations

import os
import shutil
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from wegeft_pl.callbacks.reporting import Report, ReportingCallback, is_trial, run_folder


class AdapterCheckpoint(ModelCheckpoint, ReportingCallback):
    """Lightning's checkpoint callback with this project's defaults: ``checkpoints/last.ckpt`` is always the newest.

    ``last.ckpt`` is written at the end of every training epoch, and every n steps where asked. Each file is written
    beside its place, read back, and renamed, so that a full disk or a kill never leaves half a checkpoint.

    Args:
        dirpath: the folder; null means ``checkpoints`` in the run folder.
        filename: the name of the kept checkpoints, as in Lightning.
        monitor: a logged name such as ``val/exact_match``; the best ``save_top_k`` by it are kept beside the last.
        mode: whether less (``min``) or more (``max``) of the monitored value is better.
        save_top_k: how many to keep beside ``last.ckpt``; -1 keeps all.
        every_n_train_steps: also save after this many optimiser steps.
        every_n_epochs: save after this many epochs; 1 if nothing else is said.
        train_time_interval: also save after this much time.
        save_on_exception: save what there is when a run is interrupted or fails.
        verbose: print a line per checkpoint.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        save_top_k: int = 1,
        every_n_train_steps: int | None = None,
        every_n_epochs: int | None = None,
        train_time_interval: timedelta | None = None,
        save_on_exception: bool = False,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            every_n_train_steps=every_n_train_steps,
            every_n_epochs=every_n_epochs,
            train_time_interval=train_time_interval,
            save_on_exception=save_on_exception,
            verbose=verbose,
            save_last=True,
            # A second run in the folder is refused elsewhere; numbered copies would hide which one is the last.
            enable_version_counter=False,
        )
        self._checked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resolves the folder; a folder with checkpoints in it is normal when a run goes on."""
        if self.dirpath is None:
            self.dirpath = str(run_folder(trainer) / "checkpoints")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what is due, and ``last.ckpt`` in any case."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves where nothing was saved yet; Lightning would do so in a ``fast_dev_run`` too."""
        if not is_trial(trainer):
            super().on_train_end(trainer, pl_module)

    def report(self) -> Report:
        """``paths.checkpoints``, and ``paths.best_checkpoint`` where a value is monitored."""
        if not self._last_checkpoint_saved:
            return {}
        paths = {"checkpoints": str(self.dirpath)}
        if self.monitor is not None and self.best_model_path:
            paths["best_checkpoint"] = self.best_model_path
        return {"paths": paths}

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # Lightning writes to the system's temporary folder and moves the file; across file systems that is a copy.
        final, temporary = Path(filepath), Path(filepath).with_name(f".{Path(filepath).name}.tmp")
        try:
            super()._save_checkpoint(trainer, str(temporary))
            if trainer.is_global_zero and temporary.is_file():
                self._verify(temporary, trainer.lightning_module)
                with open(temporary, "rb") as handle:
                    os.fsync(handle.fileno())
            if trainer.is_global_zero:
                if final.is_dir():  # sharded checkpoints are folders, which cannot be replaced by renaming
                    shutil.rmtree(final)
                os.replace(temporary, final)
        finally:
            if trainer.is_global_zero and temporary.is_file():
                temporary.unlink()
        trainer.strategy.barrier("checkpoint in place")
        self._last_checkpoint_saved = filepath

    def _verify(self, path: Path, module: LightningModule) -> None:
        """Reads a new file back, and warns once where it holds frozen weights of the base."""
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=False)["state_dict"]
        frozen = [name for name, p in module.named_parameters() if not p.requires_grad and name in saved]
        if frozen and not self._checked:
            rank_zero_warn(
                f"checkpoints hold {len(frozen)} frozen tensors of the base (first: {frozen[0]}) and are as large as "
                f"it; call super().on_save_checkpoint(checkpoint) in {type(module).__name__}"
            )
        self._checked = True
