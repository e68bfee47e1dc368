"""Checkpoints of a run: trainable state, optimiser and loops, kilobytes, replaced atomically."""

from __future__ import annotations

import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from wegeft_pl.callbacks.atomic_checkpoint import AtomicCheckpoint, NotFiniteError, NotWrittenError
from wegeft_pl.callbacks.checkpoint_folder import remove_forgotten, remove_half_written
from wegeft_pl.callbacks.checkpoint_io import DirectCheckpointIO
from wegeft_pl.callbacks.reporting import Report, ReportingCallback, is_trial, run_folder
from wegeft_pl.callbacks.resuming import ResumableFitLoop, go_on


class AdapterCheckpoint(AtomicCheckpoint, ReportingCallback):
    """Lightning's checkpoint callback with this project's defaults: ``checkpoints/last.ckpt`` is always the newest.

    ``last.ckpt`` is written at the end of every training epoch, every n steps where asked, and where the run ends
    inside an epoch (``max_steps``, ``max_time``, early stopping): a resumed run goes on there as if it had never
    stopped. Each file is written beside its place, read back and compared, and renamed, so that neither a full disk nor
    a kill leaves half a checkpoint, nor do NaN or infinite values replace a good one: the run stops instead. Files are
    removed only when a ``last.ckpt`` that does not need them is on the disk.

    Nothing is saved between the micro-batches of a step, whose gradients are in no checkpoint, and a run that is asked
    to stop there ends its step first. Where a validation falls between them, the best checkpoint by its score is
    written for scoring: ``last.ckpt`` waits for the end of the step.

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
        #: Logged values by name: those of the part of the run before a resume decide about its checkpoints too.
        self._metrics: dict[str, Tensor] = {}
        self._superseded: list[str] = []
        self._stop_held = False
        self._resumed: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resolves the folder; a folder with checkpoints in it is normal when a run goes on."""
        if self.dirpath is None:
            self.dirpath = str(run_folder(trainer) / "checkpoints")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        ResumableFitLoop.adopt(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # one of the user's own stays
            trainer.strategy.checkpoint_io = DirectCheckpointIO()
        if trainer.is_global_zero and not is_trial(trainer):
            remove_half_written(self._folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets a resumed run begin where its checkpoint was written; see :func:`go_on`."""
        super().on_train_start(trainer, pl_module)
        self._tidy(trainer)
        go_on(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves what is due at the end of a step, and where the run ends inside an epoch."""
        if self._is_inside_step(trainer):
            self._hold_stop(trainer)
            return
        if self._stop_held:
            self._stop_held, trainer.should_stop = False, True
        if self._is_due(trainer) and not self._should_skip_saving_checkpoint(trainer):
            self._save_due(trainer)
        self._save_at_cut(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what is due, and where this validation ends the run inside an epoch (early stopping)."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._is_inside_step(trainer):
            self._hold_stop(trainer)
        if self._defer_save_until_validation and not self._should_skip_saving_checkpoint(trainer):
            self._defer_save_until_validation = False
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)
        else:
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
        """Saves what there is where asked; weights that are not finite must not hide the error that matters.

        An exception may fall anywhere inside a step, so such a checkpoint goes on from about where the run stood, not
        bit for bit; it has a name of its own and never replaces ``last.ckpt``.
        """
        if not self._should_save_on_exception(trainer):
            return
        try:
            name = self.format_checkpoint_name(self._monitor_candidates(trainer), prefix="exception")
            self._save_checkpoint(trainer, name)
            rank_zero_info(f"{type(exception).__name__}: saved what there was as {name}")
        except (NotFiniteError, NotWrittenError) as error:
            rank_zero_warn(str(error))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves where nothing was saved yet; Lightning would do so in a ``fast_dev_run`` too."""
        self._tidy(trainer)  # a run killed behind its last step comes here without a start of training
        if not is_trial(trainer) and trainer.ckpt_path is None:
            super().on_train_end(trainer, pl_module)

    def save_now(self, trainer: Trainer) -> bool:
        """Writes ``last.ckpt`` for a run that is about to be stopped; call it on all ranks.

        Behind a step, or during a validation, which the resumed run then does anew.

        Returns:
            Whether the file now holds the present step; False inside a step, and before the first one.
        """
        if trainer.global_step == 0 or is_trial(trainer) or self._is_inside_step(trainer):
            return False
        if self._last_saved_step == trainer.global_step:
            return True
        if trainer.validating:
            # As behind the batch: Lightning has counted it as completed by now.
            progress = trainer.fit_loop.epoch_loop.batch_progress
            progress.current.completed -= 1
            progress.total.completed -= 1
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        return True

    def report(self) -> Report:
        """``paths.checkpoints``, and ``paths.best_checkpoint`` where a value is monitored."""
        if not self._last_checkpoint_saved:
            return {}
        paths = {"checkpoints": str(self.dirpath)}
        if self.monitor is not None and self.best_model_path:
            paths["best_checkpoint"] = self.best_model_path
        return {"paths": paths}

    def state_dict(self) -> dict[str, Any]:
        """Lightning's state, the values that decide about later checkpoints, and whether one waits for a validation."""
        return super().state_dict() | {"metrics": dict(self._metrics), "deferred": self._defer_save_until_validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the best checkpoints so far."""
        super().load_state_dict(state_dict)
        self._metrics = dict(state_dict["metrics"])
        self._defer_save_until_validation = state_dict["deferred"]
        self._resumed = state_dict

    @property
    def _folder(self) -> Path:
        return Path(str(self.dirpath))

    def _is_inside_step(self, trainer: Trainer) -> bool:
        return trainer.fit_loop.epoch_loop._should_accumulate()

    def _hold_stop(self, trainer: Trainer) -> None:
        """Puts off a stop that is asked for between the micro-batches of a step: their gradients would be lost."""
        if trainer.should_stop:
            self._stop_held, trainer.should_stop = True, False

    def _tidy(self, trainer: Trainer) -> None:
        resumed, self._resumed = self._resumed, None
        from_last = trainer.ckpt_path is not None and Path(trainer.ckpt_path) == self._folder / "last.ckpt"
        # An older checkpoint that someone goes back to knows nothing of the newer ones, which may be wanted.
        if resumed is not None and from_last and trainer.is_global_zero and resumed["dirpath"] == str(self.dirpath):
            remove_forgotten(self._folder, self.state_key, resumed)

    def _is_due(self, trainer: Trainer) -> bool:
        if self._every_n_train_steps >= 1 and trainer.global_step % self._every_n_train_steps == 0:
            return True
        if self._train_time_interval is None:
            return False
        now, last = time.monotonic(), self._last_time_checked
        due = last is not None and now - last >= self._train_time_interval.total_seconds()
        due = trainer.strategy.broadcast(due)  # clocks differ
        if due:
            self._last_time_checked = now
        return due

    def _save_due(self, trainer: Trainer) -> None:
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        candidates = self._monitor_candidates(trainer)
        validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        if self.monitor is None or (self.monitor in candidates and not validates):
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)
            return
        # The value to judge by comes with the next validation; the last checkpoint does not wait for it.
        self._defer_save_until_validation = True
        self._save_last_only(trainer, candidates)

    def _save_last_only(self, trainer: Trainer, candidates: dict[str, Tensor]) -> None:
        before = self._last_global_step_saved
        self._save_last_checkpoint(trainer, candidates)
        if self.monitor is not None:
            # A validation that follows may still find this step to be the best.
            self._last_global_step_saved = before

    def _save_at_cut(self, trainer: Trainer) -> None:
        loop = trainer.fit_loop
        stops = trainer.should_stop and loop._can_stop_early
        if not stops and trainer.global_step != trainer.max_steps:
            return
        if self._is_inside_step(trainer) or self._should_skip_saving_checkpoint(trainer):
            return
        if loop.epoch_loop._num_ready_batches_reached():
            return
        candidates = self._monitor_candidates(trainer)
        if self.monitor is None and self._every_n_epochs >= 1:
            self._save_topk_checkpoint(trainer, candidates)
        self._save_last_only(trainer, candidates)

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        logged: dict[str, Tensor] = trainer.callback_metrics
        self._metrics |= {name: value.detach().cpu().clone() for name, value in logged.items()}
        return self._metrics | super()._monitor_candidates(trainer)

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        if self._is_inside_step(trainer):
            return
        super()._save_last_checkpoint(trainer, monitor_candidates)
        self._last_saved_step = trainer.global_step
        superseded, self._superseded = self._superseded, []
        for path in superseded:
            super()._remove_checkpoint(trainer, path)

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # A run killed before the next last.ckpt goes on from one that still names this file as its best.
        self._superseded.append(filepath)

    #: The step that last.ckpt holds, as far as this process wrote it.
    _last_saved_step = -1
