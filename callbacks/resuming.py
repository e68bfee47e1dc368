"""Where a resumed run begins."""

from __future__ import annotations

from lightning.pytorch import Trainer


def begin_next_epoch(trainer: Trainer) -> None:
    """Ends the restart where the checkpoint was written at the end of an epoch, so that the next one begins whole.

    Lightning 2.6 restarts inside the finished epoch instead: under ``max_steps`` it trains one batch more in it and
    skips an epoch number, and behind a last batch it does not count the next epoch as started, so that the checkpoint
    after that one resumes wrongly.
    """
    outer, inner = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if outer.restarted_on_epoch_end:
        outer.epoch_progress.increment_completed()
    elif outer.restarted_mid_epoch and inner.restarted_on_train_batch_end and inner.batch_progress.is_last_batch:
        # The outer loop has counted the epoch already.
        inner.batch_progress.increment_completed()
        inner._batches_that_stepped += 1
    else:
        return
    for loop in (outer, inner, inner.val_loop):
        loop._restarting = False
        loop.reset_restart_stage()
