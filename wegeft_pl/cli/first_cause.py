"""The first cause of a failed run of several processes, said once.

When one process fails, all others fail too, with errors about lost connections that say nothing. The first process that
fails for a reason of its own claims a file in the run folder and speaks; the others find it claimed and keep silent.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import RunningStage

from wegeft_pl.cli.failure import RUN_ERROR, USAGE_ERROR, report
from wegeft_pl.cli.launcher import ObservedLauncher, how_it_ended
from wegeft_pl.distributed import EveryRankError
from wegeft_pl.tasks import last_checkpoint

#: The claim, in the run folder; hidden, and removed when the next run starts there.
FILE = ".first_cause.json"
#: How long a process that lost a connection waits for the others' reasons; rank 0, which knows most, speaks first.
WAIT_SECONDS = 2.0

#: A claim older than this process is that of an earlier run.
_STARTED = time.time()
#: Who started this process: rank 0 of this machine where Lightning launches, else torchrun or SLURM.
_PARENT = os.getppid()
#: What gloo, NCCL and torch's store say where another process is gone; they raise RuntimeError for much else.
_LOST = re.compile(
    r"closed by peer|reset by peer|connection refused|broken pipe|gloo.*(timed out|timeout|read error|write error)"
    r"|NCCL|ProcessGroup|TCPStore|socket timeout|wait timeout|store.*(timeout|timed out)",
    re.IGNORECASE | re.DOTALL,
)


class SaidElsewhereError(Exception):
    """This process failed because another one did, and that one has said why."""


class FirstCauseError(Exception):
    """Why this process ended the run, in words that name the rank."""


def is_lost_connection(error: BaseException) -> bool:
    """Tells whether an error only says that other processes cannot be reached."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def claim(folder: Path, rank: int, message: str) -> bool:
    """Says for this process that its reason is the first one.

    Args:
        folder: the run folder.
        rank: of this process.
        message: the reason, for the others to read.

    Returns:
        Whether this process is to speak: False where another one has claimed before.
    """
    path = folder / FILE
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        # Rank 0 removes an old claim before the processes meet. One that fails before that leaves it: to remove it here
        # could remove that of another process, which came in between.
        return read(folder) is None
    except OSError:  # no folder yet, or a disk that takes no more: better said twice than never
        return True
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"rank": rank, "message": message, "time": time.time()}, file)
    return True


def read(folder: Path) -> str | None:
    """The claimed reason, empty while it is being written; None where nobody of this run has claimed."""
    path = folder / FILE
    try:
        if path.stat().st_mtime < _STARTED:
            return None
        return str(json.loads(path.read_text(encoding="utf-8"))["message"])
    except json.JSONDecodeError:
        return ""
    except OSError:
        return None


def clear(folder: Path) -> None:
    """Removes the claim of an earlier run."""
    (folder / FILE).unlink(missing_ok=True)


class FirstCause(Callback):
    """Claims the first cause as soon as a process fails, before other callbacks clean up.

    It stands first among the callbacks. What it found is in ``error`` for the command line to report.
    """

    def __init__(self) -> None:
        #: What this process is to raise instead of what it raised; None where it failed in no company.
        self.error: Exception | None = None
        #: What the run was doing when it failed; Lightning forgets it.
        self.stage: RunningStage | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes the claim of an earlier run, before the processes meet in :class:`ShareRunFolder`."""
        if trainer.is_global_zero:
            clear(Path(trainer.default_root_dir))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Decides whether this process speaks."""
        self.stage = trainer.state.stage
        launcher = trainer.strategy.launcher
        if isinstance(launcher, ObservedLauncher):
            launcher.main_process_ends()
        if trainer.world_size == 1 or not isinstance(exception, Exception):
            return  # alone, or asked to end
        folder, rank = Path(trainer.default_root_dir), trainer.global_rank
        if not is_lost_connection(exception):
            # What all processes raise alike needs no rank; what one raises is about that one.
            alike = isinstance(exception, EveryRankError)
            text = str(exception) if alike else f"rank {rank}: {exception or type(exception).__name__}"
            self.error = FirstCauseError(text) if claim(folder, rank, text) else SaidElsewhereError(text)
            return
        ended = _wait(folder, launcher, WAIT_SECONDS * (1 if rank == 0 else 2))
        text = read(folder) or lost_text(trainer, ended, exception)
        said = read(folder) is not None or speaks(ended) or not claim(folder, rank, text)
        self.error = SaidElsewhereError(text) if said else FirstCauseError(text)
        exception.add_note(text)  # for run.json


def speaks(ended: tuple[int, int] | None) -> bool:
    """Whether a process that ended has said why: this command line did so, before or after it could claim."""
    return ended is not None and ended[1] in (RUN_ERROR, USAGE_ERROR)


def lost_text(trainer: Trainer, ended: tuple[int, int] | None, error: BaseException | None = None) -> str:
    """Says that another process is gone.

    Args:
        trainer: for the step and the last checkpoint.
        ended: rank and exit code of the process that ended first, where that is known.
        error: what the connection said, where anything was said.
    """
    last = last_checkpoint(trainer)
    kept = f"go on from {last} with --ckpt_path last" if last else "no checkpoint had been written yet"
    if ended is not None:
        return f"rank {ended[0]} {how_it_ended(ended[1])} at step {trainer.global_step}; {kept}"
    said = "" if error is None else f" ({str(error).splitlines()[0][:120]})"
    return (
        f"another process ended without a word at step {trainer.global_step}: killed, out of memory, or the network "
        f"failed{said}; {kept}"
    )


def observe_children(trainer: Trainer) -> None:
    """Puts our launcher in the place of Lightning's, where Lightning starts the other processes."""
    stock = trainer.strategy.launcher
    if type(stock) is not _SubprocessScriptLauncher:
        return

    def say(rank: int, code: int) -> None:
        folder = Path(trainer.default_root_dir)
        text = lost_text(trainer, (rank, code))
        if not speaks((rank, code)) and claim(folder, trainer.global_rank, text):
            report(FirstCauseError(text), RUN_ERROR)

    launcher = ObservedLauncher(stock.cluster_environment, stock.num_processes, stock.num_nodes, say)
    trainer.strategy._launcher = launcher


def _wait(folder: Path, launcher: object, seconds: float) -> tuple[int, int] | None:
    """Waits until somebody has claimed, or a child or the parent is known to have ended.

    Returns:
        Rank and exit code of the child.
    """
    end = time.monotonic() + seconds
    ended = None
    while ended is None and read(folder) is None and time.monotonic() < end and os.getppid() == _PARENT:
        time.sleep(0.05)
        ended = launcher.first_ended() if isinstance(launcher, ObservedLauncher) else None
    return ended
