"""Tasks with scores of their own: Lightning's hooks of validation, test and prediction around one evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from wegeft_pl.tasks.base import FineTuneTask
from wegeft_pl.tasks.evaluation import Evaluation, Prediction


class ScoredTask(FineTuneTask, ABC):
    """Scores batches by :meth:`new_evaluation`, and logs the scores under the names ``val/...`` and ``test/...``."""

    _evaluation: Evaluation | None  # no default here: one of the class would hide the module that it is

    @abstractmethod
    def new_evaluation(self) -> Evaluation:
        """A fresh scorer of batches, on the task's device."""

    def on_validation_epoch_start(self) -> None:
        """Starts a fresh score."""
        self._evaluation = self.new_evaluation()

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, list[Prediction]]:
        """Scores a batch; the predictions reach callbacks as the step's output."""
        return {"predictions": self._update(batch)}

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss and the other scores."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Starts a fresh score."""
        self._evaluation = self.new_evaluation()

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, list[Prediction]]:
        """Scores a batch; the predictions reach callbacks as the step's output."""
        return {"predictions": self._update(batch)}

    def on_test_epoch_end(self) -> None:
        """Logs test/loss and the other scores."""
        self._log_scores("test")

    def on_predict_epoch_start(self) -> None:
        """Starts anew."""
        self._evaluation = self.new_evaluation()

    def predict_step(self, batch: Any, batch_idx: int) -> list[Prediction]:
        """Predicts a batch, and judges the predictions where it can."""
        return self._update(batch)

    def _update(self, batch: Any) -> list[Prediction]:
        assert self._evaluation is not None
        return self._evaluation.update(batch)

    def _log_scores(self, stage: str) -> None:
        assert self._evaluation is not None
        scores = {f"{stage}/{name}": value for name, value in self._evaluation.compute().items()}
        # Already reduced over ranks by the metrics themselves.
        self.log_dict(scores, prog_bar=stage == "val", rank_zero_only=False, sync_dist=False)
        self._evaluation = None
