"""Stops a run on a signal behind its optimiser step, saved, so that it goes on as if it had never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from wegeft_pl.callbacks.checkpoint import AdapterCheckpoint
from wegeft_pl.callbacks.reporting import run_folder
from wegeft_pl.callbacks.resuming import ResumableFitLoop

#: SIGTERM ends processes politely, SIGUSR1 is SLURM's warning before the time limit, SIGINT is Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(SystemExit):
    """A run ended on a signal; the exit code is 128 plus the signal's number, as shells count.

    Args:
        number: of the signal: 143 is the code for SIGTERM, 138 for SIGUSR1, 130 for Ctrl-C.
        text: what happened, for run.json.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(128 + number)
        self.text = text

    def __str__(self) -> str:
        return self.text


class Preemption(Checkpoint):
    """On SIGTERM, SIGUSR1 or Ctrl-C the run finishes its optimiser step, saves ``last.ckpt`` and exits.

    The signal may reach one process only: all agree at the end of each step, and of each batch of a validation, which
    the resumed run does anew. Outside of training, where nothing would be lost, the run exits at once; so it does at
    the second Ctrl-C. Under SLURM, SIGUSR1 (``sbatch --signal=USR1@90``) also puts the job back into the queue; the
    same command with ``--ckpt_path last`` then goes on. Lightning's own handlers, which save in the middle of a step
    and under a name of their own, are switched off while this callback is there.

    Exit codes: 143 for SIGTERM, 138 for SIGUSR1, 130 for Ctrl-C.

    Args:
        requeue: whether SIGUSR1 under SLURM runs ``scontrol requeue``.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue = requeue
        self._signal = 0
        self._before: dict[int, Any] = {}
        self._trainer: Trainer | None = None
        self._trains = False
        self._asks_in_validation = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes over the signals, in the main thread, which alone gets them.

        Raises:
            ValueError: the callback is listed before the one that saves.
        """
        if stage != "fit" or threading.current_thread() is not threading.main_thread():
            return
        later = trainer.checkpoint_callbacks[trainer.checkpoint_callbacks.index(self) :]
        if any(isinstance(callback, AdapterCheckpoint) for callback in later):
            raise ValueError(
                "Preemption would stop before AdapterCheckpoint has saved what is due; list it behind AdapterCheckpoint"
            )
        ResumableFitLoop.adopt(trainer)
        self._trainer, self._signal, self._trains = trainer, 0, False
        connector: Any = trainer._signal_connector
        connector._sigterm_notifier_fn = _ignore
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            self.requeue = self.requeue and environment.auto_requeue
            environment.auto_requeue = False
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for the end of a step."""
        self._trains = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops where any process was asked to; runs behind the checkpoint callback."""
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds out whether all processes have equally many batches, between which they can agree."""
        counts = trainer.num_val_batches
        own = float(sum(counts)) if isinstance(counts, list) else float(counts)
        self._asks_in_validation = self._trains and _largest(trainer, own) == -_largest(trainer, -own)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stops a validation, unless it lies inside a step, which has to end first."""
        if self._asks_in_validation and not trainer.fit_loop.epoch_loop._should_accumulate():
            self._stop_if_asked(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self._give_back(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._give_back(trainer)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        assert self._trainer is not None
        loop = self._trainer.fit_loop
        waits = self._trains and not (isinstance(loop, ResumableFitLoop) and loop.is_over)
        if number == signal.SIGINT and (not waits or self._signal == signal.SIGINT):
            raise KeyboardInterrupt
        if not waits:
            raise Stopped(number, f"stopped by {signal.Signals(number).name} outside of training")
        self._signal = number
        if number == signal.SIGINT and self._trainer.is_global_zero:
            print("\nCtrl-C: saving after this step; once more stops at once", flush=True)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        number = int(_largest(trainer, float(self._signal)))
        if number == 0:
            return
        saved = [
            callback.save_now(trainer)
            for callback in trainer.checkpoint_callbacks
            if isinstance(callback, AdapterCheckpoint)
        ]
        name = signal.Signals(number).name
        what = f"stopped by {name} behind step {trainer.global_step}, {'saved' if any(saved) else 'nothing saved'}"
        if trainer.is_global_zero:
            print(f"{what}; go on with --run_dir {run_folder(trainer)} --ckpt_path last", flush=True)
            if number == signal.SIGUSR1 and self.requeue:
                _requeue()
        raise Stopped(number, what)

    def _give_back(self, trainer: Trainer) -> None:
        found = trainer._signal_connector._original_handlers
        for number, handler in self._before.items():
            if number in found:  # Lightning is about to put back what it found, which was this callback's
                found[number] = handler
            if signal.getsignal(number) == self._receive:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before, self._trains = {}, False


def _largest(trainer: Trainer, value: float) -> float:
    if trainer.world_size == 1:
        return value
    largest = torch.tensor(value, device=trainer.strategy.root_device)
    # Once a step: not the strategy's own reduction, which waits at a barrier first.
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return largest.item()


def _requeue() -> None:
    """Puts the SLURM job of this process back into the queue; says so where that fails."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        problem = result.stderr.strip() if result.returncode else None
    except OSError as error:
        problem = str(error)
    print(f"requeued job {job}" if problem is None else f"job {job} could not be requeued: {problem}", flush=True)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Stands for Lightning's handler, which communicates in the middle of whatever is going on."""
