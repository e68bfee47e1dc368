"""Starts the other processes of a run on this machine, and ends the run when one of them is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

#: How long the main process may take to notice by itself that another one is gone, before it is ended.
GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.2


def how_it_ended(code: int) -> str:
    """Says what an exit code means.

    >>> how_it_ended(-9)
    'was killed by SIGKILL (out of memory?)'
    >>> how_it_ended(3)
    'ended with exit code 3'
    """
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


class ObservedLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher, which kills the main process within seconds of a child's end, before it can say why.

    Here the main process is given time to fail by itself and to say why; only where it hangs in a collective that
    nobody will join is it ended from outside. Children never outlive a failed run.

    Args:
        cluster_environment: as in Lightning.
        num_processes: on this machine.
        num_nodes: how many machines.
        on_loss: called with rank and exit code of a child that ended while the main process hangs; the process ends
            when it returns.
    """

    def __init__(
        self, cluster_environment: Any, num_processes: int, num_nodes: int, on_loss: Callable[[int, int], None]
    ) -> None:
        super().__init__(cluster_environment, num_processes, num_nodes)
        self._on_loss = on_loss
        self._handled = threading.Event()

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Starts the children where nobody else has, then calls the function, as in Lightning."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self._observe, daemon=True, name="children").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def kill(self, signum: Any) -> None:
        """Sends a signal to the children, whose end is no news from then on."""
        self._handled.set()
        super().kill(signum)

    def first_ended(self) -> tuple[int, int] | None:
        """Rank and exit code of a child that ended with an error; None while there is none."""
        for child in self.procs:
            code = child.poll()
            if code:
                first = self.cluster_environment.node_rank() * self.num_processes
                return first + 1 + self.procs.index(child), code
        return None

    def main_process_ends(self) -> None:
        """Says that the main process has noticed a failure and will end by itself."""
        self._handled.set()

    def end_children(self, seconds: float = GRACE_SECONDS) -> None:
        """Waits for the children of a failed run to end, and kills those that hang."""
        self._handled.set()
        end = time.monotonic() + seconds
        for child in self.procs:
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _observe(self) -> None:
        while (ended := self.first_ended()) is None:
            if self._handled.wait(_POLL_SECONDS) or all(child.poll() == 0 for child in self.procs):
                return
        if not self._handled.wait(GRACE_SECONDS):
            self._on_loss(*ended)
            self.end_children(0.0)
            sys.stdout.flush()
            sys.stderr.flush()
            # The main thread is inside a collective that never returns, and cannot be made to raise.
            os._exit(1)
