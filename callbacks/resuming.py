"""Where a resumed run begins: exactly behind what the checkpoint was written behind."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import RestartStage

from wegeft_pl.adapter.storage import read_json
from wegeft_pl.callbacks.reporting import run_folder


@runtime_checkable
class HasPlace(Protocol):
    """A training loader that knows where in its epoch it is, whatever the number of processes was before."""

    @property
    def batches_done(self) -> int:
        """How many of the epoch's batches count as handed out."""
        ...


class ResumableFitLoop(_FitLoop):
    """Lightning's fit loop, which also ends a run that was killed behind its last step and before its end.

    Lightning leaves at once where nothing is left to train: no adapter, no scores, nothing merged.
    """

    #: Whether training is over, and what is being done follows it.
    is_over = False

    @classmethod
    def adopt(cls, trainer: Trainer) -> None:
        """Makes a trainer's loop one of this kind."""
        trainer.fit_loop.__class__ = cls

    def run(self) -> None:
        """Trains, or where only the end of training is missing, runs that."""
        self.is_over = False
        self.setup_data()
        trainable = self.max_batches != 0 and self.trainer.limit_train_batches != 0
        if not (trainable and self.is_resuming and self.skip) or has_ended(self.trainer):
            super().run()
            return
        self.reset()
        self.on_run_start()
        self._restarting = False
        self.on_run_end()

    def on_run_end(self) -> None:
        """Ends training."""
        self.is_over = True
        super().on_run_end()


def has_ended(trainer: Trainer) -> bool:
    """Whether the run folder's report says that the run got to its end at the present step."""
    report = run_folder(trainer) / "run.json"
    content = read_json(report) if report.exists() else {"error": "none yet"}
    return "error" not in content and content.get("steps") == trainer.global_step


def go_on(trainer: Trainer) -> None:
    """Brings Lightning's loops to where the checkpoint was written; call it at the start of training.

    Behind a batch the validation that was due, or the epoch's end, is made up for: Lightning 2.6 would leave them out.
    Behind an epoch the next one begins whole: Lightning restarts inside the finished one, under ``max_steps`` it trains
    one batch more in it and skips an epoch number, and behind a last batch it does not count the next epoch as started,
    so that the checkpoint after that one resumes wrongly.
    """
    outer, inner = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if not outer.is_resuming:
        return
    _count_batches(outer)
    if outer.restarted_on_epoch_end:
        outer.epoch_progress.increment_completed()
        _end_restart(outer)
    elif outer.restarted_mid_epoch and inner.restarted_on_train_batch_end:
        if inner.batch_progress.is_last_batch:
            _end_epoch(trainer)
        elif _validation_is_due(outer):
            inner.batch_progress.increment_completed()
            _validate(trainer)
            # Lightning goes on as behind a validation.
            inner._restart_stage = RestartStage.RESTARTED_ON_LAST


def _count_batches(outer: _FitLoop) -> None:
    """Counts the epoch's batches in those of this run, which may be larger or smaller than before."""
    assert outer._combined_loader is not None
    progress: Any = outer.epoch_loop.batch_progress
    for loader in outer._combined_loader.flattened:
        if isinstance(loader, HasPlace) and outer.restarted_mid_epoch:
            more = loader.batches_done - progress.current.ready
            for tracker in (progress.current, progress.total):
                tracker.ready += more
                tracker.started += more
                tracker.processed += more
                tracker.completed += more


def _end_epoch(trainer: Trainer) -> None:
    outer, inner = trainer.fit_loop, trainer.fit_loop.epoch_loop
    progress: Any = outer.epoch_progress
    for tracker in (progress.current, progress.total):  # Lightning counted the epoch as done
        tracker.processed -= 1
        tracker.completed -= 1
    inner.batch_progress.increment_completed()
    due = _validation_is_due(outer)
    _end_restart(outer)
    if due:
        _validate(trainer)
    inner._batches_that_stepped += 1
    outer.on_advance_end()


def _validation_is_due(outer: _FitLoop) -> bool:
    fetcher = outer._data_fetcher
    assert fetcher is not None
    return outer.epoch_loop._should_check_val_fx(fetcher)


def _validate(trainer: Trainer) -> None:
    """Validates as Lightning does behind a batch."""
    connector = trainer._logger_connector
    is_first = connector._first_loop_iter
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop._restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
    connector._first_loop_iter = is_first


def _end_restart(outer: _FitLoop) -> None:
    for loop in (outer, outer.epoch_loop, outer.epoch_loop.val_loop):
        loop._restarting = False
        loop.reset_restart_stage()
