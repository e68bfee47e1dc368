"""Which optimiser steps are taken: losses and gradients that are not finite, or far above what they were of late."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

from lightning.pytorch import Trainer

#: Steps that must have been seen before one is called a spike.
WARM_UP = 10

Kind = Literal["nonfinite", "spikes", "loss_scale"]


@dataclass(frozen=True)
class StepGuard:
    """What to do with an optimiser step that would do harm; the setting ``model.guard`` of a recipe.

    A skipped step leaves parameters and optimiser state untouched. It counts as a step of the schedule and of
    ``max_steps``.

    Args:
        nonfinite: at a loss or gradient that is NaN or infinite: ``"stop"`` the run or ``"skip"`` the step. Under
            16-mixed the loss scaler skips steps whose gradients alone are not finite, whatever is set here.
        spike: at a loss or gradient norm far above the last ones: ``"off"``, ``"skip"`` or ``"stop"``.
        spike_factor: how many times the median is a spike.
        window: over how many of the last steps that were taken the median goes; nothing is called a spike before
            ``WARM_UP`` of them.
        max_skipped: after this many skipped steps in a row the next one stops the run.

    Raises:
        ValueError: a number is out of its range.
    """

    nonfinite: Literal["stop", "skip"] = "stop"
    spike: Literal["off", "skip", "stop"] = "off"
    spike_factor: float = 10.0
    window: int = 50
    max_skipped: int = 20

    def __post_init__(self) -> None:
        if self.nonfinite not in ("stop", "skip"):
            raise ValueError(f"guard.nonfinite must be stop or skip, got {self.nonfinite!r}")
        if self.spike not in ("off", "skip", "stop"):
            raise ValueError(f"guard.spike must be off, skip or stop, got {self.spike!r}")
        if not self.spike_factor > 1:
            raise ValueError(f"guard.spike_factor must be more than 1, got {self.spike_factor}")
        if self.window < WARM_UP:
            raise ValueError(f"guard.window must be at least {WARM_UP}, got {self.window}")
        if self.max_skipped < 0:
            raise ValueError(f"guard.max_skipped must not be negative, got {self.max_skipped}")


@dataclass(frozen=True)
class Verdict:
    """What becomes of one step.

    Args:
        action: take the step, skip it, or stop the run.
        kind: what is wrong with the step; None where it is taken.
        reason: what was found, such as ``the loss is nan``; empty where the step is taken.
        by_loss: whether it was the loss, which one rank may have alone, not the gradient, which all share.
    """

    action: Literal["take", "skip", "stop"]
    kind: Kind | None = None
    reason: str = ""
    by_loss: bool = False


class StepRecord:
    """What the last steps were like, how many were skipped, and the judgement of the next one.

    The same numbers on all ranks give the same judgement on all ranks.

    Args:
        guard: the settings.
    """

    def __init__(self, guard: StepGuard) -> None:
        self.guard = guard
        #: Steps skipped so far, by kind; ``loss_scale`` are those that the scaler of 16-mixed skipped.
        self.skipped: dict[Kind, int] = {"nonfinite": 0, "spikes": 0, "loss_scale": 0}
        self._in_a_row = 0
        self._losses: deque[float] = deque(maxlen=guard.window)
        self._norms: deque[float] = deque(maxlen=guard.window)

    @property
    def total_skipped(self) -> int:
        """All skipped steps."""
        return sum(self.skipped.values())

    def judge(self, loss: float | None, norm: float, scaled: bool) -> Verdict:
        """Judges one step and remembers it.

        Args:
            loss: the step's mean loss over all ranks; None where the task does not tell its sum.
            norm: of the step's gradient, before clipping.
            scaled: whether a loss scaler skips steps with gradients that are not finite by itself (16-mixed).
        """
        verdict = self._find(loss, norm, scaled)
        if verdict.kind is None:
            self._in_a_row = 0
            self._norms.append(norm)
            if loss is not None:
                self._losses.append(loss)
        elif verdict.action == "skip":
            if self._in_a_row >= self.guard.max_skipped:
                reason = f"{self._in_a_row} steps in a row were skipped, and again {verdict.reason}"
                return replace(verdict, action="stop", reason=reason)
            self._in_a_row += 1
            self.skipped[verdict.kind] += 1
        return verdict

    def _find(self, loss: float | None, norm: float, scaled: bool) -> Verdict:
        if loss is not None and not math.isfinite(loss):
            return Verdict(self.guard.nonfinite, "nonfinite", f"the loss is {loss}", by_loss=True)
        if not math.isfinite(norm):
            reason = f"the gradient's norm is {norm}"
            return (
                Verdict("skip", "loss_scale", reason) if scaled else Verdict(self.guard.nonfinite, "nonfinite", reason)
            )
        if self.guard.spike != "off":
            for what, value, past in (("loss", loss, self._losses), ("gradient's norm", norm, self._norms)):
                usual = median(past) if len(past) >= WARM_UP else 0.0
                if value is not None and usual > 0 and value > self.guard.spike_factor * usual:
                    reason = f"the {what} is {value:.4g}, the median of the last {len(past)} steps {usual:.4g}"
                    return Verdict(self.guard.spike, "spikes", reason)
        return Verdict("take")

    def state_dict(self) -> dict[str, Any]:
        """Counts and the last steps' numbers, plain types."""
        return {
            "skipped": dict(self.skipped),
            "in_a_row": self._in_a_row,
            "losses": list(self._losses),
            "norms": list(self._norms),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state; a shorter window keeps the newest numbers."""
        self.skipped = dict(state["skipped"])
        self._in_a_row = state["in_a_row"]
        self._losses = deque(state["losses"], maxlen=self.guard.window)
        self._norms = deque(state["norms"], maxlen=self.guard.window)


def stop_message(verdict: Verdict, guard: StepGuard, trainer: Trainer, broken: Sequence[int]) -> str:
    """Says why a run stops, what is kept, and what to change.

    Args:
        verdict: of the step.
        guard: the settings it was judged by.
        trainer: for the step, the last checkpoint and clipping.
        broken: the ranks whose own loss was not finite.
    """
    where = ""
    if broken and trainer.world_size > 1:
        named = ", ".join(map(str, broken[:8])) + (f" and {len(broken) - 8} more" if len(broken) > 8 else "")
        where = f" on rank{'s' if len(broken) > 1 else ''} {named}"
    last = last_checkpoint(trainer)
    kept = f"the last good checkpoint is {last}" if last else "no checkpoint had been written yet"
    ways_out = ["lower the learning rate"]
    if not trainer.gradient_clip_val:
        ways_out.append("set trainer.gradient_clip_val")
    if guard.nonfinite == "stop" and verdict.kind == "nonfinite":
        ways_out.append("skip such steps with model.guard.nonfinite skip")
    if verdict.kind == "spikes":
        ways_out.append("raise model.guard.spike_factor")
    step = f"at step {trainer.global_step} (epoch {trainer.current_epoch})"
    return f"{verdict.reason}{where} {step}; {kept}; {', or '.join(ways_out)}"


def last_checkpoint(trainer: Trainer) -> str | None:
    """The newest checkpoint that this run has written or gone on from, or None."""
    callback = trainer.checkpoint_callback
    # Any class may stand in for Lightning's checkpoint callback, which alone has these.
    names = {} if callback is None else vars(callback)
    path = names.get("last_model_path") or names.get("best_model_path") or trainer.ckpt_path
    return str(path) if path else None
