from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from small_run import SmallData, make_task, make_trainer

from wegeft_pl.callbacks import ReportingCallback
from wegeft_pl.callbacks.reporting import is_log_step


def test_a_reporting_callback_must_report() -> None:
    class Silent(ReportingCallback):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?report"):
        Silent()  # type: ignore[abstract]


class Logged(Callback):
    """The steps and batches at which there is something to log."""

    def __init__(self) -> None:
        self.found: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if is_log_step(trainer):
            self.found.append((trainer.global_step, batch_idx))


@pytest.mark.parametrize(("accumulate", "found"), [(1, [(2, 1), (4, 3), (6, 5), (8, 7)]), (3, [(2, 5)])])
def test_one_log_per_step_under_accumulation(
    folder: Path, root: Path, accumulate: int, found: list[tuple[int, int]]
) -> None:
    logged = Logged()
    trainer = make_trainer(root, logged, accumulate_grad_batches=accumulate)
    trainer.fit(make_task(folder, generate=False), datamodule=SmallData())
    assert logged.found == found
