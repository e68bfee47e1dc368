"""Keeps what the model answered: all of it in files, a few on the console and in TensorBoard."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from wegeft_pl.callbacks.predictions import PredictionFile, sample_text, samples_markdown
from wegeft_pl.callbacks.reporting import Report, ReportingCallback, is_trial, log_text, run_folder
from wegeft_pl.tasks import Prediction

#: The folder's name in the run folder.
FOLDER = "predictions"


class SampleWriter(ReportingCallback):
    """Writes ``predictions/<stage>-step<N>.jsonl`` for every validation, test and prediction that has answers.

    Collects the predictions that the task's steps return (``{"predictions": [...]}``, or the list itself from
    ``predict_step``). Each rank writes its part; rank 0 joins them and drops repeats by id.

    Args:
        num_console: samples to print after each evaluation.
        num_tensorboard: samples to show in TensorBoard.
    """

    def __init__(self, num_console: int = 2, num_tensorboard: int = 8) -> None:
        self.num_console = num_console
        self.num_tensorboard = num_tensorboard
        self._file: PredictionFile | None = None
        self._paths: dict[str, str] = {}
        self._samples: list[dict[str, Any]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a file."""
        self._open(trainer, "val")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes a batch's predictions."""
        self._add(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finishes the file."""
        self._close(trainer, "val")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a file."""
        self._open(trainer, "test")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes a batch's predictions."""
        self._add(outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finishes the file."""
        self._close(trainer, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a file."""
        self._open(trainer, "predict")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes a batch's predictions."""
        self._add(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finishes the file."""
        self._close(trainer, "predict")

    def report(self) -> Report:
        """``paths.predictions``, the newest file of each stage; outside of a fit also three ``samples``."""
        report: Report = {"paths": {"predictions": dict(self._paths)}} if self._paths else {}
        return report | ({"samples": self._samples} if self._samples else {})

    def _open(self, trainer: Trainer, stage: str) -> None:
        if not trainer.sanity_checking and not is_trial(trainer):
            path = run_folder(trainer) / FOLDER / f"{stage}-step{trainer.global_step}.jsonl"
            self._file = PredictionFile(path, trainer.global_rank)

    def _add(self, outputs: Any) -> None:
        if self._file is None:
            return
        found = outputs.get("predictions", []) if isinstance(outputs, dict) else outputs
        if isinstance(found, list):
            self._file.add(item for item in found if isinstance(item, Prediction))

    def _close(self, trainer: Trainer, stage: str) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        rows = file.join(trainer)
        if not rows:
            return
        self._paths[stage] = str(file.path)
        if trainer.state.fn != TrainerFn.FITTING:
            self._samples = rows[:3]
        log_text(trainer, f"samples/{stage}", samples_markdown(rows[: self.num_tensorboard]))
        console = Console()
        for row in rows[: self.num_console]:
            console.print(sample_text(row))
            console.print()
