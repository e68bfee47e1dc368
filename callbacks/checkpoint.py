"""Checkpoints of a run: trainable state, optimiser and loops, kilobytes, replaced atomically."""

from __future__ import annotations

import os
import shutil
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from wegeft_pl.adapter.storage import check_finite
from wegeft_pl.callbacks.reporting import Report, ReportingCallback, is_trial, run_folder
from wegeft_pl.callbacks.resuming import begin_next_epoch


class NotFiniteError(ValueError):
    """A checkpoint would hold NaN or infinite values."""


class AdapterCheckpoint(ModelCheckpoint, ReportingCallback):
    """Lightning's checkpoint callback with this project's defaults: ``checkpoints/last.ckpt`` is always the newest.

    ``last.ckpt`` is written at the end of every training epoch, every n steps where asked, and where the run ends
    inside an epoch (``max_steps``, early stopping): a resumed run goes on there as if it had never stopped. Each file
    is written beside its place, read back, and renamed, so that neither a full disk nor a kill leaves half a
    checkpoint, nor do NaN or infinite values replace a good one: the run stops instead.

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets a run resumed at an epoch's end begin the next epoch; see :func:`begin_next_epoch`."""
        super().on_train_start(trainer, pl_module)
        begin_next_epoch(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves what is due, and where the run ends inside an epoch."""
        # Not between the batches of one step, where a resumed run's step count and a time interval would save too: the
        # gradients gathered so far are in no checkpoint.
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._save_at_cut(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what is due, and where this validation ends the run inside an epoch (early stopping)."""
        super().on_validation_end(trainer, pl_module)
        self._save_at_cut(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what is due, and ``last.ckpt`` in any case, unless the run ends inside the epoch.

        Lightning has counted such an epoch as done by now, and a run resumed from here would skip the rest of it.
        """
        if not trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            return
        super().on_train_epoch_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves what there is where asked, and ``last.ckpt`` at Ctrl-C.

        An interrupt may fall anywhere inside a step, so such a checkpoint goes on from about where the run stood, not
        bit for bit. Weights that are not finite must not hide the error that matters.
        """
        try:
            super().on_exception(trainer, pl_module, exception)
            if isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0 and trainer.training:
                self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
                rank_zero_info(
                    f"interrupted at step {trainer.global_step}, saved; go on with --run_dir "
                    f"{run_folder(trainer)} --ckpt_path last"
                )
        except NotFiniteError as error:
            rank_zero_warn(str(error))

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

    def _save_at_cut(self, trainer: Trainer) -> None:
        loop = trainer.fit_loop
        stops = trainer.should_stop and loop._can_stop_early
        if not stops and trainer.global_step != trainer.max_steps:
            return
        if loop.epoch_loop._num_ready_batches_reached() or self._should_skip_saving_checkpoint(trainer):
            return
        candidates = self._monitor_candidates(trainer)
        if self.monitor is None and self._every_n_epochs >= 1:
            self._save_topk_checkpoint(trainer, candidates)
        before = self._last_global_step_saved
        self._save_last_checkpoint(trainer, candidates)
        if self.monitor is not None:
            # A validation that follows may still find this step to be the best.
            self._last_global_step_saved = before

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # Lightning writes to the system's temporary folder and moves the file; across file systems that is a copy.
        final, temporary = Path(filepath), Path(filepath).with_name(f".{Path(filepath).name}.tmp")
        try:
            super()._save_checkpoint(trainer, str(temporary))
            broken = None
            if trainer.is_global_zero and temporary.is_file():
                broken = self._verify(temporary, trainer.lightning_module)
                with open(temporary, "rb") as handle:
                    os.fsync(handle.fileno())
            broken = trainer.strategy.broadcast(broken)  # all ranks stop, or none would notice the other's end
            if broken is not None:
                kept = "the one there is kept" if final.exists() else "there is none yet"
                raise NotFiniteError(
                    f"no checkpoint {final} at step {trainer.global_step}, {kept}: {broken}; lower the learning rate, "
                    "or clip with --trainer.gradient_clip_val 1.0"
                )
            if trainer.is_global_zero:
                if final.is_dir():  # sharded checkpoints are folders, which cannot be replaced by renaming
                    shutil.rmtree(final)
                os.replace(temporary, final)
        finally:
            if trainer.is_global_zero and temporary.is_file():
                temporary.unlink()
        trainer.strategy.barrier("checkpoint in place")
        self._last_checkpoint_saved = filepath

    def _verify(self, path: Path, module: LightningModule) -> str | None:
        """Reads a new file back, and warns once where it holds frozen weights of the base.

        Returns:
            Which trained tensor is not finite, or None where all are.
        """
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=False)["state_dict"]
        frozen = [name for name, p in module.named_parameters() if not p.requires_grad and name in saved]
        if frozen and not self._checked:
            rank_zero_warn(
                f"checkpoints hold {len(frozen)} frozen tensors of the base (first: {frozen[0]}) and are as large as "
                f"it; call super().on_save_checkpoint(checkpoint) in {type(module).__name__}"
            )
        self._checked = True
        try:
            check_finite({name: tensor for name, tensor in saved.items() if name not in frozen}, "the model")
        except ValueError as error:
            return str(error)
        return None
