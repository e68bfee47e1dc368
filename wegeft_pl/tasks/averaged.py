"""Tasks that may keep a moving average of what they train: the hooks around it, and its place in checkpoints."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from wegeft_pl.tasks import checkpoint as checkpoints
from wegeft_pl.tasks.ema import MovingAverage
from wegeft_pl.tasks.scored import ScoredTask

#: The checkpoint's section of a moving average, in this package's own.
AVERAGE = "average"


class AveragedTask(ScoredTask, ABC):
    """Trains as any other task, and where :meth:`keep_average` was called holds the average outside of steps."""

    _average: MovingAverage | None = None

    def keep_average(self, decay: float) -> None:
        """Keeps a moving average of what is trained; scores, checkpoints, adapter and merged model are of it.

        Args:
            decay: in (0, 1).

        Raises:
            ValueError: the decay lies outside (0, 1).
        """
        self._average = MovingAverage(decay, self._named_trained)

    @property
    def has_average(self) -> bool:
        """Whether :meth:`keep_average` was called."""
        return self._average is not None

    def setup(self, stage: str) -> None:
        """Checks the run.

        Raises:
            ValueError: see :meth:`FineTuneTask.setup`; or what is averaged is sharded.
        """
        super().setup(stage)
        if self._average is not None and self.sharding is not None:
            raise ValueError("ema_decay: an average of sharded parameters is not kept; use ddp, or leave it out")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Trains on what is trained, not on its average."""
        if self._average is not None:
            self._average.enter_step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes a step, and averages."""
        super().optimizer_step(*args, **kwargs)
        if self._average is not None:
            self._average.leave_step()

    def on_validation_start(self) -> None:
        """Scores the average, also where a validation falls between the batches of a step."""
        super().on_validation_start()
        if self._average is not None:
            self._average.show_average()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what is trained; where there is an average, that is the model, and the trained values lie beside it."""
        super().on_save_checkpoint(checkpoint)
        if self._average is not None:
            state, rest = self._average.save(checkpoint["state_dict"])
            checkpoint["state_dict"] = state
            checkpoint[checkpoints.SECTION][AVERAGE] = rest

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Verifies a checkpoint and goes on from it.

        Raises:
            ValueError: see :meth:`FineTuneTask.on_load_checkpoint`; or a run with an average goes on from one without,
                or the other way round.
        """
        super().on_load_checkpoint(checkpoint)
        rest = checkpoint.get(checkpoints.SECTION, {}).get(AVERAGE)
        if not self.is_fitting:
            return
        if (rest is None) != (self._average is None):
            has, way_out = ("no", "leave ema_decay out") if rest is None else ("a", "give the same ema_decay")
            raise ValueError(f"this checkpoint holds {has} moving average; {way_out}, or start a new run")
        if self._average is not None:
            self._average.load(rest)

    @property
    def is_fitting(self) -> bool:
        """Whether a trainer is fitting this task."""
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def _named_trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)
